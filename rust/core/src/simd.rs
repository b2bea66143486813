//! Runtime choice of the instruction set for the loops over atoms.
//!
//! The wheel is built for baseline x86-64; each hot function is compiled again with AVX2 or AVX-512 and fused
//! multiply-adds, and picked here once.

/// Instruction sets that the hot loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    Portable,
    Avx2,
    Avx512,
}

/// The best instruction set of this machine.
pub fn instructions() -> Instructions {
    #[cfg(target_arch = "x86_64")]
    {
        use std::sync::OnceLock;
        static BEST: OnceLock<Instructions> = OnceLock::new();
        *BEST.get_or_init(|| {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                Instructions::Avx512
            } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                Instructions::Avx2
            } else {
                Instructions::Portable
            }
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        Instructions::Portable
    }
}

/// Whether the machine has AVX-512, as found by [`Avx512::detect`] and nobody else.
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
                use $crate::simd::{Instructions, instructions};
                match instructions() {
                    // SAFETY: the features were detected on this machine.
                    Instructions::Avx512 => return unsafe { avx512::<$scalar, $degree>($arg) },
                    Instructions::Avx2 => return unsafe { avx2::<$scalar, $degree>($arg) },
                    Instructions::Portable => {}
                }
            }
            // Not worth versions of its own.
            $body::<$scalar, { $crate::simd::ANY_DEGREE }, false>($arg)
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

/// Calls `$function::<$scalar, L>($arg)` with the constant L equal to `$degree`, as far as there is a version of
/// its own for it.
macro_rules! with_degree {
    ($degree:expr, $($function:ident)::+, $scalar:ident, $arg:expr) => {
        match $degree {
            1 => $($function)::+::<$scalar, 1>($arg),
            _ => $($function)::+::<$scalar, { $crate::simd::ANY_DEGREE }>($arg),
        }
    };
}
pub(crate) use with_degree;

/// As [`with_degree`], with versions of their own for the degrees 0, 1 and 2.
macro_rules! with_low_degree {
    ($degree:expr, $($function:ident)::+, $scalar:ident, $arg:expr) => {
        match $degree {
            0 => $($function)::+::<$scalar, 0>($arg),
            1 => $($function)::+::<$scalar, 1>($arg),
            2 => $($function)::+::<$scalar, 2>($arg),
            _ => $($function)::+::<$scalar, { $crate::simd::ANY_DEGREE }>($arg),
        }
    };
}
pub(crate) use with_low_degree;
