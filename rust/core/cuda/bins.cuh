// Sites in bins, in which the sites within a cutoff of a point are found in linear time. The arithmetic is that of
// src/neighbors, to the bit: every product and sum is rounded by itself.
#pragma once
#include "batch.cuh"
#include "reduce.cuh"

#ifdef ELECTRET_HOST
DEVICE double times(double a, double b) { return a * b; }
DEVICE double plus(double a, double b) { return a + b; }
#else
DEVICE double times(double a, double b) { return __dmul_rn(a, b); }
DEVICE double plus(double a, double b) { return __dadd_rn(a, b); }
#endif

// A cell: `dual` gives fractions along periodic axes, lengths along open ones.
struct Frame {
    double vectors[3][3];
    double dual[3][3];  // dual[a] · vectors[b] = δ_ab
    int pbc[3];
    int padding;
};

// Bins of one system's sites. An open axis is folded with a period of its own: bins that are whole periods apart are
// the same bin.
struct Grid {
    double cutoff;
    double limit;      // smallest squared distance outside the cutoff
    double period[3];  // 1 along periodic axes, a length along open ones
    int bins[3];
    int first_bin;
    int n_bins;  // 0 for a system that is not binned
    int first_slot;
    int first_site;
    int n_sites;
};

// A site, wrapped into the cell.
struct Binned {
    double position[3];
    int wraps[3];  // cell vectors subtracted
    int site;
};

DEVICE Frame frame_of(const Lattice &lattice) {
    Frame frame;
#pragma unroll
    for (int a = 0; a < 3; a++) {
        frame.pbc[a] = lattice.pbc[a];
        double scale = (lattice.pbc[a] ? 1.0 : lattice.open_length) * (0.5 / PI);
#pragma unroll
        for (int k = 0; k < 3; k++) {
            frame.vectors[a][k] = value_of(lattice.vectors[a][k]);
            frame.dual[a][k] = value_of(lattice.reciprocal[a][k]) * scale;
        }
    }
    return frame;
}

DEVICE double exact_dot(const double *a, const double *b) {
    return plus(plus(times(a[0], b[0]), times(a[1], b[1])), times(a[2], b[2]));
}

// The vector of a cell shift.
DEVICE void shift_vector(const Frame &frame, const int *cells, double *out) {
#pragma unroll
    for (int k = 0; k < 3; k++)
        out[k] = plus(plus(times(cells[0], frame.vectors[0][k]), times(cells[1], frame.vectors[1][k])),
                      times(cells[2], frame.vectors[2][k]));
}

// Moves a position into the cell along its periodic axes and gives its coordinates; false where that is impossible.
DEVICE bool wrap(const Frame &frame, const double *position, Binned *out, double *coordinates) {
    bool good = true;
#pragma unroll
    for (int a = 0; a < 3; a++) {
        out->position[a] = position[a];
        out->wraps[a] = 0;
        coordinates[a] = exact_dot(frame.dual[a], position);
    }
    // A second pass moves in sites that rounding left just outside in the first.
    for (int round = 0; round < 2; round++) {
        bool moved = false;
#pragma unroll
        for (int a = 0; a < 3; a++) {
            double whole = floor(coordinates[a]);
            if (!(fabs(coordinates[a]) < 1e300)) good = false;
            if (!frame.pbc[a] || whole == 0.0) continue;
            if (fabs(whole) <= 268435456.0) {
                out->wraps[a] += (int)whole;
                moved = true;
            } else {
                good = false;
            }
        }
        if (!moved) break;
        double back[3];
        shift_vector(frame, out->wraps, back);
#pragma unroll
        for (int k = 0; k < 3; k++) out->position[k] = plus(position[k], -back[k]);
#pragma unroll
        for (int a = 0; a < 3; a++) coordinates[a] = exact_dot(frame.dual[a], out->position);
    }
    return good;
}

DEVICE int bin_of(const Grid &grid, const double *coordinates) {
    int bin = 0;
#pragma unroll
    for (int a = 0; a < 3; a++) {
        double part = coordinates[a] / grid.period[a];
        part -= floor(part);
        int k = (int)(part * grid.bins[a]);
        k = k < 0 ? 0 : k >= grid.bins[a] ? grid.bins[a] - 1 : k;
        bin = bin * grid.bins[a] + k;
    }
    return grid.first_bin + bin;
}

DEVICE int floor_divide(int a, int b) {
    int whole = a / b;
    return whole * b > a ? whole - 1 : whole;
}

// Bins that the cutoff reaches along each axis.
DEVICE void reach_of(const Grid &grid, const Frame &frame, double *reach) {
#pragma unroll
    for (int a = 0; a < 3; a++) {
        double height = 1.0 / sqrt(dot3(frame.dual[a], frame.dual[a]));
        reach[a] = grid.cutoff / (height * grid.period[a]) * grid.bins[a] * (1.0 + 1e-9) + 1e-6;
    }
}

// The sites near a point, one range of slots at a time: all that may lie within the cutoff, in every image. The threads
// of a block of one warp visit them together.
struct Walk {
    const int *start;
    int bins[3], pbc[3];
    int low[3], high[3];
    int at[3];
    int first_bin;
    int slot, end;
    int image[3];

    // All slots from `first` to `last`, in the cell itself.
    DEVICE void all(int first, int last) {
#pragma unroll
        for (int a = 0; a < 3; a++) {
            low[a] = at[a] = 0;
            high[a] = -1;
            image[a] = 0;
        }
        slot = first;
        end = last;
    }

    DEVICE void around(const Grid &grid, const Frame &frame, const int *starts, const double *coordinates) {
        double part[3], reach[3];
        reach_of(grid, frame, reach);
#pragma unroll
        for (int a = 0; a < 3; a++) {
            double whole = coordinates[a] / grid.period[a];
            part[a] = whole - floor(whole);
            // The margin is far above the rounding of binning.
            reach[a] += 1e-14 * fabs(whole) * grid.bins[a];
        }
        around(grid, starts, frame.pbc, part, reach);
    }

    // The range follows from the point's fraction of a period and from the bins within the cutoff, with a margin.
    template <class R>
    DEVICE void around(const Grid &grid, const int *starts, const int *periodic, const R *part, const R *reach) {
        start = starts;
        first_bin = grid.first_bin;
        slot = end = 0;
#pragma unroll
        for (int a = 0; a < 3; a++) {
            bins[a] = grid.bins[a];
            pbc[a] = periodic[a];
            low[a] = (int)floor(part[a] * bins[a] - reach[a]);
            high[a] = (int)floor(part[a] * bins[a] + reach[a]);
            if (!pbc[a] && high[a] - low[a] >= bins[a]) {
                low[a] = 0;
                high[a] = bins[a] - 1;
            }
            at[a] = low[a];
            image[a] = 0;
        }
    }

    DEVICE bool advance() {
        while (at[0] <= high[0]) {
            int place[3];
#pragma unroll
            for (int a = 0; a < 3; a++) {
                int whole = floor_divide(at[a], bins[a]);
                place[a] = at[a] - whole * bins[a];
                image[a] = pbc[a] ? whole : 0;
            }
            // Bins along the last axis up to the end of the cell.
            int length = bins[2] - place[2];
            if (length > high[2] - at[2] + 1) length = high[2] - at[2] + 1;
            int bin = first_bin + (place[0] * bins[1] + place[1]) * bins[2] + place[2];
            slot = start[bin];
            end = start[bin + length];
            at[2] += length;
            if (at[2] > high[2]) {
                at[2] = low[2];
                at[1]++;
            }
            if (at[1] > high[1]) {
                at[1] = low[1];
                at[0]++;
            }
            if (slot < end) return true;
        }
        return false;
    }

    // This thread's slot, or -1 for none; false at the end.
    DEVICE bool next(int *mine) {
        if (slot >= end && !advance()) return false;
        int own = slot + (int)threadIdx.x;
        *mine = own < end ? own : -1;
        slot += 32;
        return true;
    }
};

// D = (r_j - r_i) + shift.
DEVICE void separation(const Binned &from, const Binned &to, const double *shift, double *out) {
#pragma unroll
    for (int k = 0; k < 3; k++) out[k] = plus(plus(to.position[k], -from.position[k]), shift[k]);
}
