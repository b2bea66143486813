// Sites on the mesh, and the quantities that depend on the cells alone: expansions of multipoles in derivatives along
// the mesh, and the factors of the Coulomb kernel.
#include "coulomb_kernel.cuh"
#include "mesh.cuh"

struct SitesArguments {
    const Lattice *lattices;
    const int *systems;  // [local system]
    ParallelOf<W> *parallel;  // [local system][parallel_stride]
    OpenOf<R> *open;          // [local system][open_stride]
    int parallel_stride;
    int open_stride;
    MeshGrid grid;
    MeshSide sides[2];
};

// Largest number of bricks that a site reaches along each axis, and in all; one if no side lists members by brick.
DEVICE int most_bricks(const SitesArguments &args, int *along) {
    if (!args.sides[0].counts && !args.sides[1].counts) {
        along[0] = along[1] = along[2] = 1;
        return 1;
    }
    for (int axis = 0; axis < 3; axis++) along[axis] = most_reached(args.grid.points[axis], args.grid.bricks[axis]);
    return along[0] * along[1] * along[2];
}

// The brick number `step` of those that a site may reach; -1 if it does not reach it.
DEVICE int brick_of(const MeshGrid &grid, const int *start, const int *along, int step) {
    int steps[3] = {step / (along[1] * along[2]), step / along[2] % along[1], step % along[2]};
    int number = 0;
    for (int axis = 0; axis < 3; axis++) {
        Reach reach = reach_of(start[axis], grid.points[axis], grid.bricks[axis]);
        if (steps[axis] >= reach.count) return -1;
        number = number * grid.bricks[axis] + (reach.first + steps[axis]) % grid.bricks[axis];
    }
    return number;
}

DEVICE void expand(const SitesArguments &args, const MeshSide &side, int number);

// One thread for each site and brick that it may reach: where the site lies and, where members are listed by brick, how
// many each brick has. Then one block for each system, which expands its multipoles.
KERNEL(locate, SitesArguments) {
    const MeshSide &side = args.sides[blockIdx.y];
    int along[3], per_site = most_bricks(args, along);
    long long n_sites = args.sides[0].n_sites > args.sides[1].n_sites ? args.sides[0].n_sites : args.sides[1].n_sites;
    long long n_blocks = (n_sites * per_site + blockDim.x - 1) / blockDim.x;
    if (blockIdx.x >= n_blocks) {
        expand(args, side, (int)(blockIdx.x - n_blocks));
        return;
    }
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    int number = (int)(thread / per_site), step = (int)(thread % per_site);
    if (number >= side.n_sites || (step > 0 && !side.counts)) return;
    MeshSite site = side.sites[number];
    const Lattice &lattice = args.lattices[site.system];
    Place place;
    place.local = site.local;
    for (int axis = 0; axis < 3; axis++) {
        int points = args.grid.points[axis];
        T fraction = dot3(lattice.reciprocal[axis], side.positions + 3LL * site.site) * (0.5 / PI);
        double whole = floor(value_of(fraction));
        double below = floor((value_of(fraction) - whole) * points);
        if (below > points - 1) below = points - 1;
        place.rest[axis] = convert<W>((fraction - constant<T>(whole)) * (double)points - constant<T>(below));
        place.start[axis] = (int)below;
    }
    if (step == 0) side.places[number] = place;
    if (!side.counts) return;
    int brick = brick_of(args.grid, place.start, along, step);
    if (brick < 0) return;
    for (int channel = 0; channel < side.n_channels; channel++) {
        long long field = side.field_of[(long long)site.site * side.n_channels + channel];
        long long list = field * args.grid.n_bricks + brick;
        atomicAdd(&side.counts[list], 1);
        if (step == 0 && channel == 0) atomicAdd(&side.homes[list], 1);
    }
}

// One thread for each list reserves room for it; the order of the lists does not matter.
KERNEL(reserve, SitesArguments) {
    const MeshSide &side = args.sides[blockIdx.y];
    long long number = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long n_lists = (long long)side.n_fields * args.grid.n_bricks;
    if (!side.counts || number >= n_lists) return;
    int count = side.counts[number], homes = side.homes[number];
    if (count > 0) side.offsets[number] = atomicAdd(side.total, count);
    if (homes > 0) side.offsets[n_lists + number] = atomicAdd(side.total + 1, homes);
}

// One thread for each member and brick that it may reach: writes it into the brick's list, in any order.
KERNEL(enlist, SitesArguments) {
    const MeshSide &side = args.sides[blockIdx.y];
    int along[3], per_member = most_bricks(args, along);
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    int number = (int)(thread / per_member), step = (int)(thread % per_member);
    if (!side.counts || number >= side.n_members) return;
    Member member = side.members[number];
    int brick = brick_of(args.grid, side.places[member.place].start, along, step);
    if (brick < 0) return;
    long long list = (long long)side.field_of[member.receiver] * args.grid.n_bricks + brick;
    side.entries[side.offsets[list] + atomicAdd(&side.cursors[list], 1)] = number;
    if (step > 0 || member.receiver % side.n_channels != 0) return;
    long long n_lists = (long long)side.n_fields * args.grid.n_bricks;
    int slot = atomicAdd(&side.homes[n_lists + list], 1);
    side.order[side.offsets[n_lists + list] + slot] = member.place;
}

// A coefficient of the polynomial `m` of degree l; zero where an exponent is negative.
DEVICE W coefficient(const W *expansion, int l, int m, const int *e) {
    if (e[0] < 0 || e[1] < 0 || e[2] < 0) return zero<W>();
    int n = (l + 1) * (l + 2) / 2;
    return expansion[expansion_place(l) + (l + m) * n + monomial(e[0], e[1], e[2]) - l * n / 3];
}

// A coefficient of one polynomial times x, y or z, which are linear in the derivatives.
DEVICE W times_linear(const W *expansion, int l, int m, const int *e, const W (*basis)[3], int axis) {
    W sum = zero<W>();
    for (int a = 0; a < 3; a++) {
        int lower[3] = {e[0], e[1], e[2]};
        lower[a]--;
        sum += basis[a][axis] * coefficient(expansion, l, m, lower);
    }
    return sum;
}

// A coefficient of one polynomial times r².
DEVICE W times_square(const W *expansion, int l, int m, const int *e, const W (*basis)[3]) {
    W sum = zero<W>();
    for (int a = 0; a < 3; a++)
        for (int b = 0; b < 3; b++) {
            int lower[3] = {e[0], e[1], e[2]};
            lower[a]--;
            lower[b]--;
            sum += dot3(basis[a], basis[b]) * coefficient(expansion, l, m, lower);
        }
    return sum;
}

// One block for each system: C_lm(∇)/(2l-1)!! with ∇ = Σ_a B_a ∂/∂u_a, by the recursion of harmonics.cuh.
DEVICE void expand(const SitesArguments &args, const MeshSide &side, int number) {
    int max_l = side.max_l;
    W *out = side.expansion + (long long)number * EXPANSION(max_l);
    const Lattice &lattice = args.lattices[args.systems[number]];
    W basis[3][3];
    for (int a = 0; a < 3; a++)
        for (int i = 0; i < 3; i++)
            basis[a][i] = convert<W>(lattice.reciprocal[a][i] * (args.grid.points[a] * (0.5 / PI)));
    if (threadIdx.x == 0) out[0] = constant<W>(1);
    __syncthreads();
    for (int l = 1; l <= max_l; l++) {
        int n = (l + 1) * (l + 2) / 2;
        for (int item = threadIdx.x; item < (2 * l + 1) * n; item += blockDim.x) {
            int m = item / n - l, k = item % n;
            int e[3] = {0, 0, 0};
            while (k >= l - e[0] + 1) {
                k -= l - e[0] + 1;
                e[0]++;
            }
            e[1] = k;
            e[2] = l - e[0] - e[1];
            int low = l - 1;
            W value;
            if (l == 1) {
                value = times_linear(out, 0, 0, e, basis, m < 0 ? 1 : (m == 0 ? 2 : 0));
            } else if (m == l || m == -l) {
                double factor = sqrt((2 * low + 1) / (double)(2 * low + 2));
                W first = times_linear(out, low, low, e, basis, m == l ? 0 : 1);
                W second = times_linear(out, low, -low, e, basis, m == l ? 1 : 0);
                value = (m == l ? first - second : first + second) * factor;
            } else {
                double a = low + m, b = low - m;
                value = times_linear(out, low, m, e, basis, 2) * (double)(2 * low + 1);
                if (m > -low && m < low) value -= times_square(out, low - 1, m, e, basis) * sqrt(a * b);
                value = value * (1.0 / sqrt((a + 1.0) * (b + 1.0)));
            }
            out[expansion_place(l) + item] = value;
        }
        __syncthreads();
    }
    for (int l = 2; l <= max_l; l++) {
        double inverse = 1.0 / double_factorial_odd(l);
        for (int k = expansion_place(l) + threadIdx.x; k < expansion_place(l + 1); k += blockDim.x)
            out[k] = out[k] * inverse;
    }
}

DEVICE void round_to(const Parallel &part, ParallelOf<W> *out) {
    out->square = convert<W>(part.square);
    out->length = convert<W>(part.length);
    for (int k = 0; k < 2; k++) out->functions[k] = convert<W>(part.functions[k]);
}
DEVICE void round_to(const Open &part, OpenOf<R> *out) {
    out->square = (R)part.square;
    out->x = (R)part.x;
    for (int k = 0; k < 2; k++) out->functions[k] = (R)part.functions[k];
}

// Wave number of mode i of n.
DEVICE double wave(int i, int n) { return 2 * i > n ? i - n : i; }

// The kernel's parts along the periodic and along the open axes of slabs and wires, the first of these axes fastest.
KERNEL(kernel_parts, SitesArguments) {
    const Lattice &lattice = args.lattices[args.systems[blockIdx.y]];
    CoulombKernel kernel = coulomb_kernel(lattice.pbc, lattice.open_length);
    if (kernel.dimensions == 0 || kernel.dimensions == 3) return;
    int number = blockIdx.x * blockDim.x + threadIdx.x;
    int length[2] = {1, 1}, rest[2] = {number, number};
    T k[3] = {zero<T>(), zero<T>(), zero<T>()};
    double square = 0.0, step = 2.0 * PI / lattice.open_length;
    for (int axis = 0; axis < 3; axis++) {
        int points = args.grid.points[axis], kind = lattice.pbc[axis] ? 0 : 1;
        double n = wave(rest[kind] % points, points);
        rest[kind] /= points;
        length[kind] *= points;
        if (kind == 0)
            for (int i = 0; i < 3; i++) k[i] += lattice.reciprocal[axis][i] * n;
        else
            square += (step * n) * (step * n);
    }
    if (number < length[0])
        round_to(parallel_part(kernel, dot3(k, k)), &args.parallel[(long long)blockIdx.y * args.parallel_stride + number]);
    if (number < length[1])
        round_to(open_part(kernel, square), &args.open[(long long)blockIdx.y * args.open_stride + number]);
}
