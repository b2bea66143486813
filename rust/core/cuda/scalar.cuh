// The scalar types that every kernel is written over: real numbers, and dual numbers a + b t with t² = 0, on which a
// kernel gives values and directional derivatives.
#pragma once
#include "host.cuh"

const double PI = 3.14159265358979323846;
const double COULOMB_CONSTANT = 14.3996454784255;  // eV Å / e²

struct Dual {
    double value, tangent;
};

// Real numbers: the same functions as for dual ones.
DEVICE double value_of(double x) { return x; }
DEVICE double chain(double, double value, double) { return value; }
template <class T> DEVICE T constant(double value);
template <> DEVICE double constant<double>(double value) { return value; }

DEVICE double value_of(Dual x) { return x.value; }
// A function known by its value and derivative at x.
DEVICE Dual chain(Dual x, double value, double slope) { return {value, slope * x.tangent}; }
template <> DEVICE Dual constant<Dual>(double value) { return {value, 0.0}; }

DEVICE Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.tangent + b.tangent}; }
DEVICE Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.tangent - b.tangent}; }
DEVICE Dual operator-(Dual a) { return {-a.value, -a.tangent}; }
DEVICE Dual operator*(Dual a, Dual b) { return {a.value * b.value, a.value * b.tangent + a.tangent * b.value}; }
DEVICE Dual operator*(Dual a, double b) { return {a.value * b, a.tangent * b}; }
DEVICE Dual operator*(double b, Dual a) { return a * b; }
DEVICE Dual &operator+=(Dual &a, Dual b) { return a = a + b; }
DEVICE Dual &operator-=(Dual &a, Dual b) { return a = a - b; }

template <class T> DEVICE T zero() { return constant<T>(0.0); }
template <class T> DEVICE T reciprocal_of(T x) {
    double inverse = 1.0 / value_of(x);
    return chain(x, inverse, -inverse * inverse);
}
template <class T> DEVICE T root_of(T x) {
    double root = sqrt(value_of(x));
    return chain(x, root, 0.5 / root);
}
template <class T> DEVICE T exp_of(T x) {
    double e = exp(value_of(x));
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

template <class T> DEVICE T dot3(const T *a, const T *b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }
template <class T> DEVICE void cross3(const T *a, const T *b, T *out) {
    out[0] = a[1] * b[2] - a[2] * b[1];
    out[1] = a[2] * b[0] - a[0] * b[2];
    out[2] = a[0] * b[1] - a[1] * b[0];
}
