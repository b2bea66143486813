// Terms of single sites and systems: a site's interaction with itself, the background of a split sum, boundary
// corrections, and the packing and unpacking of arrays.
#include "batch.cuh"
#include "reduce.cuh"

// Parameters of the sum of one system that this file uses.
struct SystemTerms {
    double floor;       // width that narrower ones are raised to, 0 without a split
    double own;         // factor on the whole interaction of a site with itself
    double own_raised;  // factor on that of raised widths
    int background;     // 1 if the mean of a short-range part is to be subtracted
    int correction;     // 0 none, 1 slab dipole, 2 molecule in box
    int open;           // open axis of a slab
    int padding;
};

// Moments of one side of one system.
struct Moments {
    T charge;
    T excess;  // Σ q (increase of the squared width by raising it)
    T dipole[3];
    T second[6];  // ∫ρ r rᵀ: xx, yy, zz, yz, xz, xy
};

const double ROOT_THIRD = 0.57735026918962576451;

// Adds the components of a bᵀ to those of a symmetric tensor.
DEVICE void add_product(const T *a, const T *b, T *m) {
    m[0] += a[0] * b[0];
    m[1] += a[1] * b[1];
    m[2] += a[2] * b[2];
    m[3] += a[1] * b[2];
    m[4] += a[0] * b[2];
    m[5] += a[0] * b[1];
}
// Product of a symmetric tensor and a vector.
DEVICE void apply(const T *m, const T *v, T *out) {
    out[0] = m[0] * v[0] + m[5] * v[1] + m[4] * v[2];
    out[1] = m[5] * v[0] + m[1] * v[1] + m[3] * v[2];
    out[2] = m[4] * v[0] + m[3] * v[1] + m[2] * v[2];
}
DEVICE T trace(const T *m) { return m[0] + m[1] + m[2]; }

DEVICE double raised_by(double width, double floor) { return width < floor ? floor * floor - width * width : 0.0; }

struct MomentArguments {
    Side side;
    const SystemTerms *systems;
    const Tile *tiles;
    T *partials;  // [tile][moment]
    int n_lm;
    int padding;
};

// A block per tile, a thread per site.
KERNEL(moments, MomentArguments) {
    Tile tile = args.tiles[blockIdx.x];
    SystemTerms system = args.systems[tile.system];
    T sums[N_MOMENTS];
    for (int k = 0; k < N_MOMENTS; k++) sums[k] = zero<T>();
    bool full = system.correction != 0;
    for (int site = tile.first + threadIdx.x; site < tile.first + tile.count; site += blockDim.x) {
        const T *r = args.side.positions + 3 * (size_t)site;
        for (int channel = 0; channel < args.side.n_channels; channel++) {
            int place = site * args.side.n_channels + channel;
            const T *p = args.side.coefficients + (size_t)place * args.n_lm;
            sums[0] += p[0];
            if (system.background) sums[1] += p[0] * raised_by(args.side.widths[place], system.floor);
            if (!full) continue;
            T moment[3] = {p[0] * r[0], p[0] * r[1], p[0] * r[2]}, *second = sums + 5;
            double square = args.side.widths[place] * args.side.widths[place];
            for (int axis = 0; axis < 3; axis++) {
                sums[2 + axis] += moment[axis];
                second[axis] += p[0] * square;
            }
            add_product(moment, r, second);
            if (args.n_lm == 1) continue;
            T local[3] = {p[3], p[1], p[2]};
            for (int axis = 0; axis < 3; axis++) sums[2 + axis] += local[axis];
            add_product(local, r, second);
            add_product(r, local, second);
            if (args.n_lm == 4) continue;
            // l = 2 is stored as xy, yz, 3z² - r², xz, x² - y²
            T along = p[6] * (1.0 / 3.0), across = p[8] * ROOT_THIRD;
            second[0] += across - along;
            second[1] -= across + along;
            second[2] += along * 2.0;
            second[3] += p[5] * ROOT_THIRD;
            second[4] += p[7] * ROOT_THIRD;
            second[5] += p[4] * ROOT_THIRD;
        }
    }
    block_sum<N_MOMENTS>(sums);
    if (threadIdx.x == 0)
        for (int k = 0; k < N_MOMENTS; k++) args.partials[(size_t)blockIdx.x * N_MOMENTS + k] = sums[k];
}

const double CUBIC_MADELUNG = 2.837297479480619;

DEVICE void slab_axes(int open, int *a, int *b) {
    *a = (open + 1) % 3;
    *b = (open + 2) % 3;
}

// Unit normal of a slab and the length of the product of its vectors.
DEVICE void slab_normal(const Lattice &lattice, int open, T *normal, T *length) {
    int a, b;
    slab_axes(open, &a, &b);
    T area[3];
    cross3(lattice.vectors[a], lattice.vectors[b], area);
    *length = root_of(dot3(area, area));
    T inverse = reciprocal_of(*length);
    for (int axis = 0; axis < 3; axis++) normal[axis] = area[axis] * inverse;
}

// The cube root of the volume, by its logarithm's derivative.
DEVICE T box_length(T volume) {
    double root = cbrt(value_of(volume));
    return chain(volume, root, root / (3.0 * value_of(volume)));
}

// The moments that act on a side, from those of its source.
DEVICE void response(const SystemTerms &system, const Lattice &lattice, const Moments &m, T *charge, T *dipole, T *second) {
    *charge = zero<T>();
    for (int axis = 0; axis < 3; axis++) dipole[axis] = zero<T>();
    for (int k = 0; k < 6; k++) second[k] = zero<T>();
    T inverse = reciprocal_of(lattice.volume);
    if (system.correction == 1) {
        T normal[3], length;
        slab_normal(lattice, system.open, normal, &length);
        T strength = inverse * (4.0 * PI * COULOMB_CONSTANT), height = lattice.volume * reciprocal_of(length);
        T along = strength * dot3(m.dipole, normal), product[3];
        for (int axis = 0; axis < 3; axis++) dipole[axis] = normal[axis] * along;
        apply(m.second, normal, product);
        *charge = -(strength * (dot3(product, normal) * 0.5 + height * height * m.charge * (1.0 / 12.0)));
        T of_charge = -(strength * m.charge * 0.5);
        T weighted[3] = {of_charge * normal[0], of_charge * normal[1], of_charge * normal[2]};
        add_product(weighted, normal, second);
    } else if (system.correction == 2) {
        T image = reciprocal_of(box_length(lattice.volume)) * (CUBIC_MADELUNG * COULOMB_CONSTANT);
        T dipolar = inverse * (4.0 * PI / 3.0 * COULOMB_CONSTANT);
        *charge = image * m.charge - dipolar * trace(m.second) * 0.5;
        for (int axis = 0; axis < 3; axis++) dipole[axis] = m.dipole[axis] * dipolar;
        for (int k = 0; k < 3; k++) second[k] = -(dipolar * m.charge * 0.5);
    }
}

struct SiteArguments {
    Side receivers;
    Side sources;
    const SystemTerms *systems;
    const Lattice *lattices;
    const Moments *moments;  // [system], of the sources
    int receiver_lm;
    int source_lm;
    int same_sites;
    int gradients;
};

// Interaction of a Gaussian with itself for l = 0; K √(2/π)/γ.
DEVICE double own_weight(double inverse2) { return COULOMB_CONSTANT * sqrt(2.0 / PI * inverse2); }

// Adds to every receiver its interaction with itself, with the background and with the boundary's correction.
KERNEL(sites, SiteArguments) {
    int site = blockIdx.x * blockDim.x + threadIdx.x;
    const Side &receivers = args.receivers, &sources = args.sources;
    if (site >= receivers.n_sites) return;
    int number = receivers.system[site];
    SystemTerms system = args.systems[number];
    if (args.same_sites && (system.own != 0.0 || system.own_raised != 0.0)) {
        int n = args.receiver_lm < args.source_lm ? args.receiver_lm : args.source_lm;
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
                        receivers.potentials[(size_t)to * args.receiver_lm + lm] +=
                            sources.coefficients[(size_t)from * args.source_lm + lm] * total;
                    weight *= inverse / (2 * l + 3);
                    raised_weight *= raised_inverse / (2 * l + 3);
                }
            }
        }
    }
    if (!system.background && !system.correction) return;
    const Moments &moments = args.moments[number];
    const Lattice &lattice = args.lattices[number];
    if (system.background) {
        T factor = reciprocal_of(lattice.volume) * (-2.0 * PI * COULOMB_CONSTANT);
        for (int b = 0; b < receivers.n_channels; b++) {
            int to = site * receivers.n_channels + b;
            T sum = moments.excess + moments.charge * raised_by(receivers.widths[to], system.floor);
            receivers.potentials[(size_t)to * args.receiver_lm] += factor * sum;
        }
    }
    if (!system.correction) return;
    T charge, dipole[3], second[6];
    response(system, lattice, moments, &charge, dipole, second);
    const T *r = receivers.positions + 3 * (size_t)site;
    T slope[3], field[3];
    apply(second, r, slope);
    for (int axis = 0; axis < 3; axis++) field[axis] = dipole[axis] + slope[axis] * 2.0;
    T potential = charge + dot3(dipole, r) + dot3(slope, r);
    T gradient[3] = {zero<T>(), zero<T>(), zero<T>()};
    for (int b = 0; b < receivers.n_channels; b++) {
        int place = site * receivers.n_channels + b;
        size_t to = (size_t)place * args.receiver_lm;
        T *out = receivers.potentials + to;
        const T *q = receivers.coefficients + to;
        out[0] += potential + trace(second) * (receivers.widths[place] * receivers.widths[place]);
        if (args.receiver_lm > 1) {
            out[3] += field[0];
            out[1] += field[1];
            out[2] += field[2];
        }
        if (args.receiver_lm > 4) {
            out[4] += second[5] * (2.0 * ROOT_THIRD);
            out[5] += second[3] * (2.0 * ROOT_THIRD);
            out[6] += second[2] * (2.0 / 3.0) - (second[0] + second[1]) * (1.0 / 3.0);
            out[7] += second[4] * (2.0 * ROOT_THIRD);
            out[8] += (second[0] - second[1]) * ROOT_THIRD;
        }
        if (!args.gradients) continue;
        for (int axis = 0; axis < 3; axis++) gradient[axis] += field[axis] * q[0];
        if (args.receiver_lm > 1) {
            T local[3] = {q[3], q[1], q[2]}, product[3];
            apply(second, local, product);
            for (int axis = 0; axis < 3; axis++) gradient[axis] += product[axis] * 2.0;
        }
    }
    if (args.gradients)
        for (int axis = 0; axis < 3; axis++) receivers.gradients[3 * (size_t)site + axis] += gradient[axis];
}

struct CellArguments {
    const SystemTerms *systems;
    const Lattice *lattices;
    const Moments *receivers;
    const Moments *sources;
    T *cell;  // [system][3][3], added to
    double once;
    int n_systems;
    int padding;
};

// Derivatives of the background and of corrections in the cell.
KERNEL(cell_terms, CellArguments) {
    int number = blockIdx.x * blockDim.x + threadIdx.x;
    if (number >= args.n_systems) return;
    SystemTerms system = args.systems[number];
    if (!system.background && !system.correction) return;
    const Lattice &lattice = args.lattices[number];
    const Moments &t = args.receivers[number], &p = args.sources[number];
    T *cell = args.cell + 9 * (size_t)number;
    T inverse = reciprocal_of(lattice.volume);
    T by_volume = zero<T>();  // V dU/dV
    if (system.background) {
        T factor = inverse * (-2.0 * PI * COULOMB_CONSTANT);
        by_volume -= factor * (p.excess * t.charge + p.charge * t.excess);
    }
    if (system.correction == 1) {
        int a, b;
        slab_axes(system.open, &a, &b);
        T normal[3], length;
        slab_normal(lattice, system.open, normal, &length);
        T strength = inverse * (4.0 * PI * COULOMB_CONSTANT);
        T d1 = dot3(p.dipole, normal), d2 = dot3(t.dipole, normal), s1[3], s2[3];
        apply(p.second, normal, s1);
        apply(t.second, normal, s2);
        T height = lattice.volume * reciprocal_of(length);
        T charges = strength * height * height * (1.0 / 12.0) * p.charge * t.charge;  // proportional to V/|A|²
        T rest = strength * (d1 * d2 - (p.charge * dot3(s2, normal) + t.charge * dot3(s1, normal)) * 0.5);
        by_volume -= rest + charges;
        // U depends on the normal n = A/|A|: dU/dA = (1 - n n·) dU/dn / |A|, and on |A|
        T d_normal[3], d_area[3];
        for (int axis = 0; axis < 3; axis++)
            d_normal[axis] =
                strength * (p.dipole[axis] * d2 + t.dipole[axis] * d1 - s2[axis] * p.charge - s1[axis] * t.charge);
        T along = dot3(normal, d_normal) - charges * 2.0, scale = reciprocal_of(length) * args.once;
        for (int axis = 0; axis < 3; axis++) d_area[axis] = (d_normal[axis] - normal[axis] * along) * scale;
        T first[3], second[3];
        cross3(lattice.vectors[b], d_area, first);
        cross3(d_area, lattice.vectors[a], second);
        for (int axis = 0; axis < 3; axis++) {
            cell[3 * a + axis] += first[axis];
            cell[3 * b + axis] += second[axis];
        }
    } else if (system.correction == 2) {
        T image = reciprocal_of(box_length(lattice.volume)) * (CUBIC_MADELUNG * COULOMB_CONSTANT);
        T dipolar = inverse * (4.0 * PI / 3.0 * COULOMB_CONSTANT);
        T charges = image * p.charge * t.charge;
        T rest = dipolar * (dot3(p.dipole, t.dipole) - (p.charge * trace(t.second) + trace(p.second) * t.charge) * 0.5);
        by_volume -= charges * (1.0 / 3.0) + rest;
    }
    // dV/dh = V h^-T, and h^-T = b / 2π
    T factor = by_volume * (args.once / (2.0 * PI));
    for (int row = 0; row < 3; row++)
        for (int axis = 0; axis < 3; axis++) cell[3 * row + axis] += lattice.reciprocal[row][axis] * factor;
}

struct ProductArguments {
    Side side;
    const Tile *tiles;
    T *partials;  // [tile]
    double factor;
    int n_row;
    int padding;
};

// Σ coefficient × potential of each tile, a block each.
KERNEL(products, ProductArguments) {
    Tile tile = args.tiles[blockIdx.x];
    size_t first = (size_t)tile.first * args.n_row, n = (size_t)tile.count * args.n_row;
    T sum = zero<T>();
    for (size_t k = first + threadIdx.x; k < first + n; k += blockDim.x)
        sum += args.side.coefficients[k] * args.side.potentials[k];
    block_sum<1>(&sum);
    if (threadIdx.x == 0) args.partials[blockIdx.x] = sum * args.factor;
}

struct PackArguments {
    const double *values;    // [row][column]; null for zeros
    const double *tangents;  // null for zeros
    const int *order;        // row of each place in the order of systems; null for the order as it is
    const double *factors;   // [column]; null for ones
    T *out;                  // [place][column]
    int n_rows;
    int n_columns;
};

KERNEL(pack, PackArguments) {
    size_t number = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (number >= (size_t)args.n_rows * args.n_columns) return;
    int row = (int)(number / args.n_columns), column = (int)(number % args.n_columns);
    size_t from = (size_t)(args.order ? args.order[row] : row) * args.n_columns + column;
    double factor = args.factors ? args.factors[column] : 1.0;
    double value = args.values ? args.values[from] * factor : 0.0;
    double tangent = args.tangents ? args.tangents[from] * factor : 0.0;
    args.out[number] = Maker<T>::make(value, tangent);
}

struct UnpackArguments {
    const T *values;        // [place][column]
    const int *order;       // as for packing
    const double *factors;  // as for packing
    double *out;            // [row][column]
    int n_rows;
    int n_columns;
    int tangents;  // 1 for tangents
    int padding;
};

KERNEL(unpack, UnpackArguments) {
    size_t number = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (number >= (size_t)args.n_rows * args.n_columns) return;
    int row = (int)(number / args.n_columns), column = (int)(number % args.n_columns);
    size_t to = (size_t)(args.order ? args.order[row] : row) * args.n_columns + column;
    double factor = args.factors ? args.factors[column] : 1.0;
    T x = args.values[number];
    args.out[to] = (args.tangents ? tangent_of(x) : value_of(x)) * factor;
}
