//! Runtime choice of the instruction set for the loops over atoms.
//!
//! The wheel is built for baseline x86-64; each hot function is compiled again with AVX2 or AVX-512 and fused
//! multiply-adds, and picked here once. `ELECTRET_INSTRUCTIONS` lowers the choice, for tests and diagnosis.

use crate::{Error, Result};
use std::sync::OnceLock;

/// Names an instruction set below the best one.
const VARIABLE: &str = "ELECTRET_INSTRUCTIONS";

/// Instruction sets that the hot loops are compiled for, each beyond the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    Portable,
    Avx2,
    Avx512,
}

impl Instructions {
    /// Name, as in `ELECTRET_INSTRUCTIONS`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// The best instruction set of this machine.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    return Self::Avx512;
                }
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// The instruction set of a name, the best one of an empty name.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: no instruction set has that name, or it is beyond the best one.
    fn parse(name: &str, best: Self) -> Result<Self> {
        let chosen = match name {
            "" => return Ok(best),
            "portable" => Self::Portable,
            "avx2" => Self::Avx2,
            "avx512" => Self::Avx512,
            _ => {
                return Err(Error::Unsupported {
                    what: format!("{VARIABLE} = {name:?} is no instruction set"),
                    remedy: "use portable, avx2 or avx512, or unset it".into(),
                });
            }
        };
        if chosen > best {
            return Err(Error::Unsupported {
                what: format!("{VARIABLE} = {name:?} is beyond this machine"),
                remedy: format!(
                    "its best is {}; use that or a lower one, or unset it",
                    best.name()
                ),
            });
        }
        Ok(chosen)
    }
}

/// The instruction set in use: the best one of this machine, or the lower one that `ELECTRET_INSTRUCTIONS` names.
///
/// # Errors
/// [`Error::Unsupported`]: it names none, or one that this machine does not have.
pub fn chosen() -> Result<Instructions> {
    static CHOSEN: OnceLock<Result<Instructions>> = OnceLock::new();
    CHOSEN
        .get_or_init(|| {
            let name = std::env::var_os(VARIABLE).unwrap_or_default();
            Instructions::parse(&name.to_string_lossy(), Instructions::best())
        })
        .clone()
}

/// The instruction set in use.
///
/// # Panics
/// If [`chosen`] is an error.
pub fn instructions() -> Instructions {
    static IN_USE: OnceLock<Instructions> = OnceLock::new();
    *IN_USE.get_or_init(|| chosen().unwrap_or_else(|error| panic!("{error}")))
}

/// True if AVX-512 is in use; made by [`Avx512::detect`] only.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(bool);

impl Avx512 {
    pub fn detect() -> Self {
        Self(instructions() == Instructions::Avx512)
    }

    #[inline(always)]
    pub fn found(self) -> bool {
        self.0
    }
}

/// Defines `$name`, which runs `$body::<T, L, FMA>` compiled for the best instruction set, the degree L of the
/// multipoles being a constant that loops are unrolled by.
macro_rules! dispatch {
    ($(#[$meta:meta])* fn $name:ident<$scalar:ident, $degree:ident>($arg:ident: $type:ty) -> $out:ty => $body:ident) => {
        $(#[$meta])*
        pub fn $name<$scalar: Scalar, const $degree: usize>($arg: $type) -> $out {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$scalar: Scalar, const $degree: usize>($arg: $type) -> $out {
                    $body::<$scalar, $degree, true>($arg)
                }
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
                fn avx512<$scalar: Scalar, const $degree: usize>($arg: $type) -> $out {
                    $body::<$scalar, $degree, true>($arg)
                }
                use $crate::arithmetic::dispatch::{Instructions, instructions};
                match instructions() {
                    // SAFETY: the features were detected on this machine.
                    Instructions::Avx512 => return unsafe { avx512::<$scalar, $degree>($arg) },
                    Instructions::Avx2 => return unsafe { avx2::<$scalar, $degree>($arg) },
                    Instructions::Portable => {}
                }
            }
            // Instruction sets without a compiled version.
            $body::<$scalar, { $crate::arithmetic::dispatch::ANY_DEGREE }, false>($arg)
        }
    };
}
pub(crate) use dispatch;

/// Stands for a degree that is only known at run time.
pub(crate) const ANY_DEGREE: usize = usize::MAX;

/// The degree L, or `degree` where L is [`ANY_DEGREE`].
#[inline(always)]
pub(crate) fn degree_or<const L: usize>(degree: usize) -> usize {
    if L == ANY_DEGREE { degree } else { L }
}

/// Calls `$function::<$scalar, L>($arg)` with the constant L equal to `$degree`, if a version is compiled for that
/// degree.
macro_rules! with_degree {
    ($degree:expr, $($function:ident)::+, $scalar:ident, $arg:expr) => {
        match $degree {
            1 => $($function)::+::<$scalar, 1>($arg),
            _ => $($function)::+::<$scalar, { $crate::arithmetic::dispatch::ANY_DEGREE }>($arg),
        }
    };
}
pub(crate) use with_degree;

/// As [`with_degree`], with compiled versions for the degrees 0, 1 and 2.
macro_rules! with_low_degree {
    ($degree:expr, $($function:ident)::+, $scalar:ident, $arg:expr) => {
        match $degree {
            0 => $($function)::+::<$scalar, 0>($arg),
            1 => $($function)::+::<$scalar, 1>($arg),
            2 => $($function)::+::<$scalar, 2>($arg),
            _ => $($function)::+::<$scalar, { $crate::arithmetic::dispatch::ANY_DEGREE }>($arg),
        }
    };
}
pub(crate) use with_low_degree;

#[cfg(test)]
mod tests {
    use super::Instructions::{self, Avx2, Avx512, Portable};

    #[test]
    fn choice_of_instructions() {
        for best in [Portable, Avx2, Avx512] {
            assert_eq!(Instructions::parse("", best), Ok(best));
            for wanted in [Portable, Avx2, Avx512] {
                let found = Instructions::parse(wanted.name(), best);
                if wanted <= best {
                    assert_eq!(found, Ok(wanted));
                } else {
                    let message = found.expect_err("beyond the machine").to_string();
                    assert!(message.contains(wanted.name()) && message.contains(best.name()));
                }
            }
            for name in ["AVX2", "sse4.2", "avx2 ", "0"] {
                let message = Instructions::parse(name, best).expect_err(name).to_string();
                assert!(message.contains(name) && message.contains("portable"));
            }
        }
    }
}
