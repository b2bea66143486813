// Sites for sums of single precision. Positions carry their rounding error as a second number, so that the difference
// of two near sites is exact to single precision anywhere in the cell.
#pragma once
#include "bins.cuh"

// A number of about twice single precision: the sum of both.
struct Fine {
    float high, low;
};

DEVICE Fine fine(double x) {
    float high = (float)x;
    return {high, (float)(x - (double)high)};
}

DEVICE Fine operator+(Fine a, Fine b) {
    Fine out = {a.high, a.low + b.low};
    add_exactly(b.high, &out.high, &out.low);
    return out;
}

// A small whole number times another.
DEVICE Fine operator*(int n, Fine a) {
    float high = n * a.high;
    return {high, fmaf((float)n, a.high, -high) + n * a.low};
}

DEVICE float difference(Fine a, Fine b) { return (a.high - b.high) + (a.low - b.low); }

// A site, wrapped into the cell where it is binned.
struct RoundedSite {
    Fine position[3];
    int wraps[3];
    int site;
};

// A rounded receiver, and the part of the bins' period that it is at.
struct RoundedReceiver {
    RoundedSite site;
    float part[3];
    int padding;
};

DEVICE RoundedSite rounded(const Binned &binned) {
    RoundedSite out;
#pragma unroll
    for (int k = 0; k < 3; k++) {
        out.position[k] = fine(binned.position[k]);
        out.wraps[k] = binned.wraps[k];
    }
    out.site = binned.site;
    return out;
}
