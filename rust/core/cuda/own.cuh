// Interaction of each site with itself, where only multipoles of the same (l, m) meet; as in src/ewald/own.rs.
#pragma once
#include "site_terms.cuh"

// Interaction of a Gaussian with itself for l = 0; K √(2/π)/γ.
DEVICE double own_weight(double inverse2) { return COULOMB_CONSTANT * sqrt(2.0 / PI * inverse2); }

// Adds the sources of a site to the receivers on it.
DEVICE void add_own(
    const SystemTerms &system, const Side &receivers, int receiver_lm, const Side &sources, int source_lm, int site
) {
    int n = receiver_lm < source_lm ? receiver_lm : source_lm;
    for (int b = 0; b < receivers.n_channels; b++) {
        int to = site * receivers.n_channels + b;
        double s = receivers.widths[to];
        for (int a = 0; a < sources.n_channels; a++) {
            int from = site * sources.n_channels + a;
            double sigma = sources.widths[from];
            double inverse = 1.0 / (sigma * sigma + s * s);
            double weight = system.own == 0.0 ? 0.0 : system.own * own_weight(inverse);
            double raised_inverse = 0.0, raised_weight = 0.0;
            if (system.own_raised != 0.0) {
                double x = fmax(sigma, system.floor), y = fmax(s, system.floor);
                raised_inverse = 1.0 / (x * x + y * y);
                raised_weight = system.own_raised * own_weight(raised_inverse);
            }
            int lm = 0;
            for (int l = 0; lm < n; l++) {
                double total = weight + raised_weight;
                for (; lm < (l + 1) * (l + 1) && lm < n; lm++)
                    receivers.potentials[(size_t)to * receiver_lm + lm] +=
                        sources.coefficients[(size_t)from * source_lm + lm] * total;
                weight *= inverse / (2 * l + 3);
                raised_weight *= raised_inverse / (2 * l + 3);
            }
        }
    }
}
