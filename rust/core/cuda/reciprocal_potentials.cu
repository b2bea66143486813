// Potentials and gradients at sites in the field over modes: a block for each tile of sites, its threads over modes.
//
// SCALAR, WORK, SITE_L: degree of the sites' multipoles, SITES: largest count of a tile, TOGETHER: channels summed in one
// pass over the modes, GRADIENTS: 0 for potentials only, 1 for gradients in positions, 2 for those in the cell too.
#include "reciprocal.cuh"
#include "reduce.cuh"
#include "harmonic_gradients.cuh"  // generated

struct PotentialArguments {
    ModeArrays modes;
    SiteArrays sites;
    const Tile *tiles;
    const Lattice *lattices;
    T *cell_partials;  // [tile][9]: derivatives in the reciprocal vectors
};

#define LM COUNT(SITE_L)

KERNEL(mode_potentials, PotentialArguments) {
    const ModeArrays &modes = args.modes;
    const Side &side = args.sites.side;
    const Tile tile = args.tiles[blockIdx.x];
    const ModeSystem system = modes.systems[tile.system];
    int n_channels = side.n_channels, n_phases = n_phases_of(system);
    const Complex *phases = phases_of(args.sites, system, tile.system, tile.first);
#if GRADIENTS
    SHARED W scaled[SITES][TOGETHER][LM];
    Sum<W> gradient_sums[3 * SITES];
    for (int i = 0; i < 3 * SITES; i++) gradient_sums[i].clear();
#endif
#if GRADIENTS == 2
    Sum<W> cell_sums[9];
    for (int i = 0; i < 9; i++) cell_sums[i].clear();
#endif
    for (int first = 0; first < n_channels; first += TOGETHER) {
        // A tile's missing sites repeat its last, with no multipoles; so do missing channels.
        const W *gaussians[SITES][TOGETHER];
#pragma unroll
        for (int s = 0; s < SITES; s++)
#pragma unroll
            for (int c = 0; c < TOGETHER; c++) {
                int site = tile.first + (s < tile.count ? s : tile.count - 1);
                int channel = first + c < n_channels ? first + c : n_channels - 1;
                long long kind = args.sites.kinds[site * n_channels + channel];
                gaussians[s][c] = modes.gaussians + system.first_gaussian + kind * system.n_modes;
            }
#if GRADIENTS
        __syncthreads();
        for (int entry = threadIdx.x; entry < SITES * TOGETHER * LM; entry += blockDim.x) {
            int s = entry / (TOGETHER * LM), c = entry / LM % TOGETHER, lm = entry % LM;
            long long row = (long long)(tile.first + s) * n_channels + first + c;
            bool there = s < tile.count && first + c < n_channels;
            scaled[s][c][lm] = there ? side.rounded[row * LM + lm] * degree_factor(degree_of(lm)) : zero<W>();
        }
        __syncthreads();
#endif
        Sum<W> potential_sums[SITES * TOGETHER * LM];
#pragma unroll
        for (int i = 0; i < SITES * TOGETHER * LM; i++) potential_sums[i].clear();
        for (int m = threadIdx.x; m < system.n_modes; m += blockDim.x) {
            int number = system.first_mode + m;
            Mode mode = modes.modes[number];
            Complex field = modes.field[number];
            W k[3], harmonics[LM];
#pragma unroll
            for (int x = 0; x < 3; x++) k[x] = modes.k[(long long)x * modes.n_modes + number];
            solid_harmonics<SITE_L>(k[0], k[1], k[2], harmonics);
#pragma unroll
            for (int s = 0; s < SITES; s++) {
                int row = s < tile.count ? s : tile.count - 1;
                Complex z = multiply(field, phase(phases + (long long)row * n_phases, system, mode));
#if GRADIENTS
                W weighted[LM];  // Σ_channels Gaussian × coefficient
#pragma unroll
                for (int lm = 0; lm < LM; lm++) weighted[lm] = zero<W>();
#endif
#pragma unroll
                for (int c = 0; c < TOGETHER; c++) {
                    W gaussian = gaussians[s][c][m];
                    W parts[2] = {gaussian * z.re, gaussian * z.im};
#pragma unroll
                    for (int l = 0; l <= SITE_L; l++)
#pragma unroll
                        for (int lm = l * l; lm < COUNT(l); lm++)
                            potential_sums[(s * TOGETHER + c) * LM + lm].add(harmonics[lm] * parts[l % 2]);
#if GRADIENTS
#pragma unroll
                    for (int lm = 0; lm < LM; lm++) weighted[lm] += gaussian * scaled[s][c][lm];
#endif
                }
#if GRADIENTS
                // dU/dr = Re[i k conj(F) z] = -k Im[conj(F) z]
                W amplitude[2] = {zero<W>(), zero<W>()};
#pragma unroll
                for (int l = 0; l <= SITE_L; l++)
#pragma unroll
                    for (int lm = l * l; lm < COUNT(l); lm++) amplitude[l % 2] += weighted[lm] * harmonics[lm];
                W along = amplitude[1] * z.re - amplitude[0] * z.im;
#pragma unroll
                for (int x = 0; x < 3; x++) gradient_sums[3 * s + x].add(k[x] * along);
#endif
#if GRADIENTS == 2
                // Re[conj(∂F/∂k) z] through the harmonics
#pragma unroll
                for (int l = 1; l <= SITE_L; l++)
#pragma unroll
                    for (int lm = l * l; lm < COUNT(l); lm++) weighted[lm] = weighted[lm] * (l % 2 ? z.im : z.re);
                W change[3] = {zero<W>(), zero<W>(), zero<W>()};
                add_harmonic_gradients(harmonics, weighted, change);
#pragma unroll
                for (int axis = 0; axis < 3; axis++)
#pragma unroll
                    for (int x = 0; x < 3; x++) cell_sums[3 * axis + x].add(change[x] * (R)mode.n[axis]);
#endif
            }
        }
        W sums[SITES * TOGETHER * LM];
#pragma unroll
        for (int i = 0; i < SITES * TOGETHER * LM; i++) sums[i] = potential_sums[i].value();
        block_sum<SITES * TOGETHER * LM>(sums);
        if (threadIdx.x == 0) {
#pragma unroll
            for (int s = 0; s < SITES; s++)
#pragma unroll
                for (int c = 0; c < TOGETHER; c++) {
                    if (s >= tile.count || first + c >= n_channels) continue;
                    T *potentials = side.potentials + ((long long)(tile.first + s) * n_channels + first + c) * LM;
#pragma unroll
                    for (int l = 0; l <= SITE_L; l++)
#pragma unroll
                        for (int lm = l * l; lm < COUNT(l); lm++)
                            potentials[lm] += convert<T>(sums[(s * TOGETHER + c) * LM + lm]) * degree_factor(l);
                }
        }
    }
#if GRADIENTS
    W gradients[3 * SITES];
    for (int i = 0; i < 3 * SITES; i++) gradients[i] = gradient_sums[i].value();
    block_sum<3 * SITES>(gradients);
    if (threadIdx.x == 0)
#pragma unroll
        for (int i = 0; i < 3 * SITES; i++)
            if (i < 3 * tile.count) side.gradients[3LL * tile.first + i] += convert<T>(gradients[i]);
#endif
#if GRADIENTS == 2
    W total[9];
    for (int i = 0; i < 9; i++) total[i] = cell_sums[i].value();
    block_sum<9>(total);
    if (threadIdx.x != 0) return;
    T cell[9];
    for (int i = 0; i < 9; i++) cell[i] = convert<T>(total[i]);
    // Through the phases b·r: ∂U/∂b_j ∋ r (h_j · ∂U/∂r) / 2π.
    const Lattice &lattice = args.lattices[tile.system];
#pragma unroll
    for (int s = 0; s < SITES; s++) {
        if (s >= tile.count) continue;
        const T *position = side.positions + 3LL * (tile.first + s);
#pragma unroll
        for (int axis = 0; axis < 3; axis++) {
            T gradient[3];
            for (int x = 0; x < 3; x++) gradient[x] = convert<T>(gradients[3 * s + x]);
            T along = dot3(lattice.vectors[axis], gradient) * (0.5 / PI);
#pragma unroll
            for (int x = 0; x < 3; x++) cell[3 * axis + x] += position[x] * along;
        }
    }
    for (int i = 0; i < 9; i++) args.cell_partials[9LL * blockIdx.x + i] = cell[i];
#endif
}
