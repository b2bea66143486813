//! The terms of the pair interaction as CUDA: straight-line code for low degrees, tables for loops above.

use crate::ewald::pair::{Component, PairTable};
use crate::special::harmonics::GradientTerm;
use std::fmt::Write;

/// Up to this sum of degrees the terms are written out: some hundred lines.
const WRITTEN_OUT: usize = 4;

/// `terms.cuh` for receivers and sources of these degrees.
pub fn header(receiver_l: usize, source_l: usize) -> String {
    let table = PairTable::of(source_l, receiver_l);
    let components = table.components();
    let slopes = |component: &Component| table.gradients_of(component.product);
    if receiver_l + source_l <= WRITTEN_OUT {
        written_out(components, slopes)
    } else {
        tables(components, slopes)
    }
}

fn written_out<'a>(
    components: &[Component],
    slopes: impl Fn(&Component) -> &'a [GradientTerm],
) -> String {
    let mut out = String::from(
        "DEVICE void add_terms(const W *d, const W *h, const W (*f)[TOP + 1], const W *p, const W *q, W *v, W *g) {\n\
         W s, t, w, along = zero<W>();\n",
    );
    let mut line = |text: std::fmt::Arguments| {
        let _ = out.write_fmt(text);
        out.push('\n');
    };
    for component in components {
        let (product, power, degree) = (component.product, component.power, component.degree);
        line(format_args!("t = h[{product}] * f[{power}][{degree}];"));
        line(format_args!("w = zero<W>();"));
        let mut receivers: Vec<u16> = component.terms.iter().map(|term| term.receiver).collect();
        receivers.sort_unstable();
        receivers.dedup();
        for receiver in receivers {
            let own = component.terms.iter().filter(|t| t.receiver == receiver);
            let sum: Vec<String> = own
                .map(|term| format!("p[{}] * {:?}", term.source, term.coefficient))
                .collect();
            line(format_args!("s = {};", sum.join(" + ")));
            line(format_args!("v[{receiver}] += t * s;"));
            line(format_args!("if (GRADIENTS) w += s * q[{receiver}];"));
        }
        line(format_args!("#if GRADIENTS"));
        line(format_args!(
            "along += w * h[{product}] * f[{power}][{}];",
            degree + 1
        ));
        line(format_args!("w = w * f[{power}][{degree}];"));
        for slope in slopes(component) {
            line(format_args!(
                "g[{}] += w * h[{}] * {:?};",
                slope.axis, slope.lower, slope.coefficient
            ));
        }
        line(format_args!("#endif"));
    }
    line(format_args!(
        "#if GRADIENTS\nfor (int k = 0; k < 3; k++) g[k] += along * d[k];\n#endif\n}}"
    ));
    out
}

fn tables<'a>(
    components: &[Component],
    slopes: impl Fn(&Component) -> &'a [GradientTerm],
) -> String {
    let (mut n_terms, mut n_slopes) = (0, 0);
    let [mut heads, mut terms, mut lower] = [String::new(), String::new(), String::new()];
    for component in components {
        let own = slopes(component);
        let _ = writeln!(
            heads,
            "{{{}, {}, {}, {n_terms}, {n_slopes}, {}}},",
            component.product,
            component.power,
            component.degree,
            n_slopes + own.len()
        );
        for term in &component.terms {
            let _ = writeln!(
                terms,
                "{{{:?}, {}, {}}},",
                term.coefficient, term.source, term.receiver
            );
        }
        for slope in own {
            let _ = writeln!(
                lower,
                "{{{:?}, {}, {}}},",
                slope.coefficient, slope.axis, slope.lower
            );
        }
        n_terms += component.terms.len();
        n_slopes += own.len();
    }
    let _ = writeln!(heads, "{{0, 0, 0, {n_terms}, 0, 0}},");
    format!(
        "#define TERM_TABLES\n\
         #ifdef ELECTRET_HOST\n\
         #define TABLE static const\n\
         #else\n\
         #define TABLE static __device__ const\n\
         #endif\n\
         struct Component {{ int product, power, degree, first, first_slope, last_slope; }};\n\
         struct Term {{ R coefficient; int source, receiver; }};\n\
         struct Slope {{ R coefficient; int axis, lower; }};\n\
         const int N_COMPONENTS = {};\n\
         TABLE Component COMPONENTS[] = {{\n{heads}}};\n\
         TABLE Term TERMS[] = {{\n{terms}}};\n\
         TABLE Slope SLOPES[] = {{\n{lower}}};\n",
        components.len()
    )
}
