// The scalar types that every kernel is written over: real numbers, and dual numbers a + b t with t² = 0, on which a
// kernel gives values and directional derivatives; of double precision, or of single precision for long sums.
#pragma once
#include "host.cuh"

const double PI = 3.14159265358979323846;
// COULOMB_CONSTANT, eV Å / e², is defined by every unit (src/cuda/driver/unit.rs).

// A dual number over real numbers R.
template <class R> struct DualOf {
    R value, tangent;
};
typedef DualOf<double> Dual;
typedef DualOf<float> SingleDual;

// A real number of single precision. A separate type, so that double factors are rounded to float; a plain float would
// be widened to double.
struct Single {
    float value;
};

// The real numbers of a scalar.
template <class T> struct Real {
    typedef double type;
};
template <> struct Real<Single> {
    typedef float type;
};
template <> struct Real<SingleDual> {
    typedef float type;
};
// Excludes an argument from template deduction.
template <class R> struct Given {
    typedef R type;
};

// Real numbers, with the functions of dual numbers.
DEVICE double value_of(double x) { return x; }
DEVICE double tangent_of(double) { return 0.0; }
DEVICE double chain(double, double value, double) { return value; }
DEVICE float value_of(Single x) { return x.value; }
DEVICE float tangent_of(Single) { return 0.0f; }
DEVICE Single chain(Single, float value, float) { return {value}; }

template <class R> DEVICE R value_of(DualOf<R> x) { return x.value; }
template <class R> DEVICE R tangent_of(DualOf<R> x) { return x.tangent; }
// A function known by its value and derivative at x.
template <class R> DEVICE DualOf<R> chain(DualOf<R> x, typename Given<R>::type value, typename Given<R>::type slope) {
    return {value, slope * x.tangent};
}

// A scalar from its parts.
template <class T> struct Maker;
template <> struct Maker<double> {
    static DEVICE double make(double value, double) { return value; }
};
template <> struct Maker<Single> {
    static DEVICE Single make(float value, float) { return {value}; }
};
template <class R> struct Maker<DualOf<R>> {
    static DEVICE DualOf<R> make(R value, R tangent) { return {value, tangent}; }
};
template <class T> DEVICE T constant(typename Real<T>::type value) { return Maker<T>::make(value, 0); }
template <class T> DEVICE T zero() { return constant<T>(0); }
// A number converted to another precision.
template <class To, class From> DEVICE To convert(From x) {
    typedef typename Real<To>::type R;
    return Maker<To>::make((R)value_of(x), (R)tangent_of(x));
}

DEVICE Single operator+(Single a, Single b) { return {a.value + b.value}; }
DEVICE Single operator-(Single a, Single b) { return {a.value - b.value}; }
DEVICE Single operator-(Single a) { return {-a.value}; }
DEVICE Single operator*(Single a, Single b) { return {a.value * b.value}; }
DEVICE Single operator*(Single a, float b) { return {a.value * b}; }
DEVICE Single operator*(float b, Single a) { return a * b; }
DEVICE Single &operator+=(Single &a, Single b) { return a = a + b; }
DEVICE Single &operator-=(Single &a, Single b) { return a = a - b; }

#define DUAL template <class R> DEVICE DualOf<R>
DUAL operator+(DualOf<R> a, DualOf<R> b) { return {a.value + b.value, a.tangent + b.tangent}; }
DUAL operator-(DualOf<R> a, DualOf<R> b) { return {a.value - b.value, a.tangent - b.tangent}; }
DUAL operator-(DualOf<R> a) { return {-a.value, -a.tangent}; }
DUAL operator*(DualOf<R> a, DualOf<R> b) { return {a.value * b.value, a.value * b.tangent + a.tangent * b.value}; }
DUAL operator*(DualOf<R> a, typename Given<R>::type b) { return {a.value * b, a.tangent * b}; }
DUAL operator*(typename Given<R>::type b, DualOf<R> a) { return a * b; }
DUAL &operator+=(DualOf<R> &a, DualOf<R> b) { return a = a + b; }
DUAL &operator-=(DualOf<R> &a, DualOf<R> b) { return a = a - b; }
#undef DUAL

template <class T> DEVICE T reciprocal_of(T x) {
    typename Real<T>::type inverse = 1 / value_of(x);
    return chain(x, inverse, -inverse * inverse);
}
template <class T> DEVICE T root_of(T x) {
    typename Real<T>::type root = sqrt(value_of(x)), half = 0.5;
    return chain(x, root, half / root);
}
template <class T> DEVICE T exp_of(T x) {
    typename Real<T>::type e = exp(value_of(x));
    return chain(x, e, e);
}
template <class T> DEVICE void sin_cos_of(T x, T *s, T *c) {
    double sv, cv;
#ifdef ELECTRET_HOST
    sincos(value_of(x), &sv, &cv, 0);
#else
    sincos(value_of(x), &sv, &cv);
#endif
    *s = chain(x, sv, cv);
    *c = chain(x, cv, -sv);
}
// Sine and cosine of 2π times x, which is reduced to one turn before it is rounded.
template <class To, class From> DEVICE void sin_cos_of_turns(From x, To *s, To *c) {
    typedef typename Real<To>::type R;
    To turn = convert<To>(x - constant<From>(rint(value_of(x))));
    R angle = 2 * value_of(turn), sv, cv;
#ifdef ELECTRET_HOST
    sv = (R)sin(PI * angle);
    cv = (R)cos(PI * angle);
#else
    sincospi(angle, &sv, &cv);
#endif
    const R factor = (R)(2.0 * PI);
    *s = chain(turn, sv, factor * cv);
    *c = chain(turn, cv, -factor * sv);
}

template <class T> DEVICE T dot3(const T *a, const T *b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }
template <class T> DEVICE void cross3(const T *a, const T *b, T *out) {
    out[0] = a[1] * b[2] - a[2] * b[1];
    out[1] = a[2] * b[0] - a[0] * b[2];
    out[2] = a[0] * b[1] - a[1] * b[0];
}

// Sum of many terms: in single precision with the rounding error summed separately (Knuth), so that the error does not
// grow with the number of terms.
template <class T> struct Sum {
    T total;
    DEVICE void clear() { total = zero<T>(); }
    DEVICE void add(T x) { total += x; }
    DEVICE T value() const { return total; }
};
DEVICE void add_exactly(float x, float *total, float *rest) {
    float sum = *total + x, part = sum - *total;
    *rest += (*total - (sum - part)) + (x - part);
    *total = sum;
}
template <> struct Sum<Single> {
    float total, rest;
    DEVICE void clear() { total = rest = 0.0f; }
    DEVICE void add(Single x) { add_exactly(x.value, &total, &rest); }
    DEVICE Single value() const { return {total + rest}; }
};
template <> struct Sum<SingleDual> {
    Sum<Single> values, tangents;
    DEVICE void clear() {
        values.clear();
        tangents.clear();
    }
    DEVICE void add(SingleDual x) {
        values.add({x.value});
        tangents.add({x.tangent});
    }
    DEVICE SingleDual value() const { return {values.value().value, tangents.value().value}; }
};

// N sums, to which many parts are added: a part is what is added to the array of open() until close().
template <int N, class T> struct Sums {
    T totals[N];
    DEVICE void clear() {
#pragma unroll
        for (int k = 0; k < N; k++) totals[k] = zero<T>();
    }
    DEVICE T *open() { return totals; }
    DEVICE void close() {}
    DEVICE T value(int k) const { return totals[k]; }
};
template <int N, class T> struct CarefulSums {
    Sum<T> totals[N];
    T part[N];
    DEVICE void clear() {
#pragma unroll
        for (int k = 0; k < N; k++) totals[k].clear();
    }
    DEVICE T *open() {
#pragma unroll
        for (int k = 0; k < N; k++) part[k] = zero<T>();
        return part;
    }
    DEVICE void close() {
#pragma unroll
        for (int k = 0; k < N; k++) totals[k].add(part[k]);
    }
    DEVICE T value(int k) const { return totals[k].value(); }
};
template <int N> struct Sums<N, Single> : CarefulSums<N, Single> {};
template <int N> struct Sums<N, SingleDual> : CarefulSums<N, SingleDual> {};
