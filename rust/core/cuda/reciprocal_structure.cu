// Structure factors of chunks of sites: a thread for each mode goes through a chunk.
//
// SCALAR, WORK, SITE_L: degree of the sites' multipoles, BY_WIDTH: 1 to write the structure factor weighted by widths
// squared too (its derivative in -k²/2).
#include "reciprocal.cuh"

// Some modes and some sites of one system.
struct Work {
    int system;
    int first_mode;  // of the system's
    int n_modes;
    int first_site;
    int n_sites;
    int chunk;
};

struct StructureArguments {
    ModeArrays modes;
    SiteArrays sites;
    const Work *works;
};

#define LM COUNT(SITE_L)
#define N_COMPONENTS (BY_WIDTH ? 4 : 2)

KERNEL(structure_factors, StructureArguments) {
    Work work = args.works[blockIdx.x];
    if (threadIdx.x >= work.n_modes) return;
    const ModeArrays &modes = args.modes;
    const Side &side = args.sites.side;
    const ModeSystem system = modes.systems[work.system];
    int m = work.first_mode + threadIdx.x;
    int number = system.first_mode + m;
    Mode mode = modes.modes[number];
    const W *k = modes.k + number;
    W harmonics[LM];
    solid_harmonics<SITE_L>(k[0], k[modes.n_modes], k[2LL * modes.n_modes], harmonics);
#pragma unroll
    for (int l = 1; l <= SITE_L; l++)
#pragma unroll
        for (int lm = l * l; lm < COUNT(l); lm++) harmonics[lm] = harmonics[lm] * degree_factor(l);

    const W *gaussians = modes.gaussians + system.first_gaussian + m;
    const Complex *phases = phases_of(args.sites, system, work.system, work.first_site);
    int n_phases = n_phases_of(system), last_kind = -1;
    W gaussian = zero<W>();
    Sum<W> sums[N_COMPONENTS];
    R width2 = 0;
    for (int component = 0; component < N_COMPONENTS; component++) sums[component].clear();
    for (int site = work.first_site; site < work.first_site + work.n_sites; site++, phases += n_phases) {
        // F of the site without and with the widths squared
        W amplitude[4] = {zero<W>(), zero<W>(), zero<W>(), zero<W>()};
        for (int channel = 0; channel < side.n_channels; channel++) {
            int row = site * side.n_channels + channel;
            int kind = args.sites.kinds[row];
            if (kind != last_kind) {
                // Neighbours mostly share a width.
                last_kind = kind;
                gaussian = gaussians[(long long)kind * system.n_modes];
                R width = modes.widths[system.first_width + kind];
                width2 = width * width;
            }
            const W *coefficients = side.rounded + (long long)row * LM;
            W parts[2] = {coefficients[0], zero<W>()};
#pragma unroll
            for (int l = 1; l <= SITE_L; l++)
#pragma unroll
                for (int lm = l * l; lm < COUNT(l); lm++) parts[l % 2] += coefficients[lm] * harmonics[lm];
            for (int part = 0; part < 2; part++) {
                W value = parts[part] * gaussian;
                amplitude[part] += value;
                if (BY_WIDTH) amplitude[2 + part] += value * width2;
            }
        }
        Complex e = phase(phases, system, mode);
        for (int component = 0; component < N_COMPONENTS; component += 2) {
            W re = amplitude[component], im = amplitude[component + 1];
            sums[component].add(re * e.re + im * e.im);
            sums[component + 1].add(im * e.re - re * e.im);
        }
    }
    W *partials = args.sites.partials + args.sites.systems[work.system].first_partial * N_COMPONENTS + m;
    for (int component = 0; component < N_COMPONENTS; component++)
        partials[((long long)work.chunk * N_COMPONENTS + component) * system.n_modes] = sums[component].value();
}
