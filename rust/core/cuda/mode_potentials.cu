// Potentials and gradients at sites in the field over modes: a block for each tile of sites, its threads over modes.
//
// SCALAR, SITE_L: degree of the sites' multipoles, SITES: largest count of a tile, TOGETHER: channels summed in one
// pass over the modes, GRADIENTS: 0 for potentials only, 1 for gradients in positions, 2 for those in the cell too.
#include "modes.cuh"
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
    SHARED T scaled[SITES][TOGETHER][LM];
    T gradients[3 * SITES];
    for (int i = 0; i < 3 * SITES; i++) gradients[i] = zero<T>();
#endif
#if GRADIENTS == 2
    T cell[9];
    for (int i = 0; i < 9; i++) cell[i] = zero<T>();
#endif
    for (int first = 0; first < n_channels; first += TOGETHER) {
        // A tile's missing sites repeat its last, with no multipoles; so do missing channels.
        const T *gaussians[SITES][TOGETHER];
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
            scaled[s][c][lm] = there ? side.coefficients[row * LM + lm] * degree_factor(degree_of(lm)) : zero<T>();
        }
        __syncthreads();
#endif
        T sums[SITES * TOGETHER * LM];
#pragma unroll
        for (int i = 0; i < SITES * TOGETHER * LM; i++) sums[i] = zero<T>();
        for (int m = threadIdx.x; m < system.n_modes; m += blockDim.x) {
            int number = system.first_mode + m;
            Mode mode = modes.modes[number];
            Complex field = modes.field[number];
            T k[3], harmonics[LM];
#pragma unroll
            for (int x = 0; x < 3; x++) k[x] = modes.k[(long long)x * modes.n_modes + number];
            solid_harmonics<SITE_L>(k[0], k[1], k[2], harmonics);
#pragma unroll
            for (int s = 0; s < SITES; s++) {
                int row = s < tile.count ? s : tile.count - 1;
                Complex z = multiply(field, phase(phases + (long long)row * n_phases, system, mode));
#if GRADIENTS
                T weighted[LM];  // Σ_channels Gaussian × coefficient
#pragma unroll
                for (int lm = 0; lm < LM; lm++) weighted[lm] = zero<T>();
#endif
#pragma unroll
                for (int c = 0; c < TOGETHER; c++) {
                    T gaussian = gaussians[s][c][m];
                    T parts[2] = {gaussian * z.re, gaussian * z.im};
#pragma unroll
                    for (int l = 0; l <= SITE_L; l++)
#pragma unroll
                        for (int lm = l * l; lm < COUNT(l); lm++)
                            sums[(s * TOGETHER + c) * LM + lm] += harmonics[lm] * parts[l % 2];
#if GRADIENTS
#pragma unroll
                    for (int lm = 0; lm < LM; lm++) weighted[lm] += gaussian * scaled[s][c][lm];
#endif
                }
#if GRADIENTS
                // dU/dr = Re[i k conj(F) z] = -k Im[conj(F) z]
                T amplitude[2] = {zero<T>(), zero<T>()};
#pragma unroll
                for (int l = 0; l <= SITE_L; l++)
#pragma unroll
                    for (int lm = l * l; lm < COUNT(l); lm++) amplitude[l % 2] += weighted[lm] * harmonics[lm];
                T along = amplitude[1] * z.re - amplitude[0] * z.im;
#pragma unroll
                for (int x = 0; x < 3; x++) gradients[3 * s + x] += k[x] * along;
#endif
#if GRADIENTS == 2
                // Re[conj(∂F/∂k) z] through the harmonics
#pragma unroll
                for (int l = 1; l <= SITE_L; l++)
#pragma unroll
                    for (int lm = l * l; lm < COUNT(l); lm++) weighted[lm] = weighted[lm] * (l % 2 ? z.im : z.re);
                T change[3] = {zero<T>(), zero<T>(), zero<T>()};
                add_harmonic_gradients(harmonics, weighted, change);
#pragma unroll
                for (int axis = 0; axis < 3; axis++)
#pragma unroll
                    for (int x = 0; x < 3; x++) cell[3 * axis + x] += change[x] * (double)mode.n[axis];
#endif
            }
        }
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
                            potentials[lm] += sums[(s * TOGETHER + c) * LM + lm] * degree_factor(l);
                }
        }
    }
#if GRADIENTS
    block_sum<3 * SITES>(gradients);
    if (threadIdx.x == 0)
#pragma unroll
        for (int i = 0; i < 3 * SITES; i++)
            if (i < 3 * tile.count) side.gradients[3LL * tile.first + i] += gradients[i];
#endif
#if GRADIENTS == 2
    block_sum<9>(cell);
    if (threadIdx.x != 0) return;
    // Through the phases b·r: ∂U/∂b_j ∋ r (h_j · ∂U/∂r) / 2π.
    const Lattice &lattice = args.lattices[tile.system];
#pragma unroll
    for (int s = 0; s < SITES; s++) {
        if (s >= tile.count) continue;
        const T *position = side.positions + 3LL * (tile.first + s);
#pragma unroll
        for (int axis = 0; axis < 3; axis++) {
            T along = dot3(lattice.vectors[axis], gradients + 3 * s) * (0.5 / PI);
#pragma unroll
            for (int x = 0; x < 3; x++) cell[3 * axis + x] += position[x] * along;
        }
    }
    for (int i = 0; i < 9; i++) args.cell_partials[9LL * blockIdx.x + i] = cell[i];
#endif
}
