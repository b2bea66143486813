//! Rows of numbers to packs and back by shuffles of AVX-512, which the compiler does not generate by itself.
//!
//! Every function here needs a machine with AVX-512. None enables it: they are inlined where it is enabled.

use super::f64x8::{F64x8, LANES};
use std::arch::x86_64::*;

/// Columns of eight rows of eight numbers.
///
/// # Safety
/// The machine must have AVX-512.
#[inline(always)]
pub unsafe fn columns_of_eight(rows: &[&[f64; 8]; LANES], out: &mut [F64x8; 8]) {
    // SAFETY: the caller vouches for the instructions; rows and columns are eight numbers long.
    unsafe {
        let a = _mm512_loadu_pd(rows[0].as_ptr());
        let b = _mm512_loadu_pd(rows[1].as_ptr());
        let c = _mm512_loadu_pd(rows[2].as_ptr());
        let d = _mm512_loadu_pd(rows[3].as_ptr());
        let e = _mm512_loadu_pd(rows[4].as_ptr());
        let f = _mm512_loadu_pd(rows[5].as_ptr());
        let g = _mm512_loadu_pd(rows[6].as_ptr());
        let h = _mm512_loadu_pd(rows[7].as_ptr());
        // Two rows in each quarter: the even columns, then the odd ones.
        let even = [
            _mm512_unpacklo_pd(a, b),
            _mm512_unpacklo_pd(c, d),
            _mm512_unpacklo_pd(e, f),
            _mm512_unpacklo_pd(g, h),
        ];
        let odd = [
            _mm512_unpackhi_pd(a, b),
            _mm512_unpackhi_pd(c, d),
            _mm512_unpackhi_pd(e, f),
            _mm512_unpackhi_pd(g, h),
        ];
        for parity in 0..2 {
            let t = if parity == 0 { &even } else { &odd };
            let a = _mm512_shuffle_f64x2::<0x88>(t[0], t[1]);
            let b = _mm512_shuffle_f64x2::<0x88>(t[2], t[3]);
            let c = _mm512_shuffle_f64x2::<0xdd>(t[0], t[1]);
            let d = _mm512_shuffle_f64x2::<0xdd>(t[2], t[3]);
            let columns = [
                _mm512_shuffle_f64x2::<0x88>(a, b),
                _mm512_shuffle_f64x2::<0x88>(c, d),
                _mm512_shuffle_f64x2::<0xdd>(a, b),
                _mm512_shuffle_f64x2::<0xdd>(c, d),
            ];
            for k in 0..4 {
                _mm512_storeu_pd(out[2 * k + parity].0.as_mut_ptr(), columns[k]);
            }
        }
    }
}

/// Columns of eight rows of four numbers, which start at `rows`.
///
/// # Safety
/// The machine must have AVX-512, and four numbers must be readable at each row.
#[inline(always)]
pub unsafe fn columns_of_four(rows: &[*const f64; LANES], out: &mut [F64x8]) {
    // SAFETY: the caller vouches for instructions and rows; there are four packs, or the index panics.
    unsafe {
        let a = two_rows(rows[0], rows[2]);
        let b = two_rows(rows[1], rows[3]);
        let c = two_rows(rows[4], rows[6]);
        let d = two_rows(rows[5], rows[7]);
        let even = [_mm512_unpacklo_pd(a, b), _mm512_unpacklo_pd(c, d)];
        let odd = [_mm512_unpackhi_pd(a, b), _mm512_unpackhi_pd(c, d)];
        let columns = [
            _mm512_shuffle_f64x2::<0x88>(even[0], even[1]),
            _mm512_shuffle_f64x2::<0x88>(odd[0], odd[1]),
            _mm512_shuffle_f64x2::<0xdd>(even[0], even[1]),
            _mm512_shuffle_f64x2::<0xdd>(odd[0], odd[1]),
        ];
        for k in 0..4 {
            _mm512_storeu_pd(out[k].0.as_mut_ptr(), columns[k]);
        }
    }
}

/// # Safety
/// As [`columns_of_four`].
#[inline(always)]
unsafe fn two_rows(low: *const f64, high: *const f64) -> __m512d {
    // SAFETY: the caller's.
    unsafe {
        let low = _mm512_castpd256_pd512(_mm256_loadu_pd(low));
        _mm512_insertf64x4::<1>(low, _mm256_loadu_pd(high))
    }
}

/// Adds four columns to eight rows of four numbers, which start at `rows`, one after the other.
///
/// # Safety
/// The machine must have AVX-512, and four numbers must be writable at each row.
#[inline(always)]
pub unsafe fn add_to_rows_of_four(columns: &[F64x8], rows: &[*mut f64; LANES]) {
    // SAFETY: the caller vouches for instructions and rows; there are four packs, or the index panics.
    unsafe {
        let x = _mm512_loadu_pd(columns[0].0.as_ptr());
        let y = _mm512_loadu_pd(columns[1].0.as_ptr());
        let z = _mm512_loadu_pd(columns[2].0.as_ptr());
        let w = _mm512_loadu_pd(columns[3].0.as_ptr());
        // One row in each quarter, half of it: rows 0, 2, 4, 6, then the others.
        let first = [_mm512_unpacklo_pd(x, y), _mm512_unpackhi_pd(x, y)];
        let second = [_mm512_unpacklo_pd(z, w), _mm512_unpackhi_pd(z, w)];
        let low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
        let high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        let pairs = [
            _mm512_permutex2var_pd(first[0], low, second[0]),
            _mm512_permutex2var_pd(first[1], low, second[1]),
            _mm512_permutex2var_pd(first[0], high, second[0]),
            _mm512_permutex2var_pd(first[1], high, second[1]),
        ];
        for quarter in 0..2 {
            for odd in 0..2 {
                let pair = pairs[2 * quarter + odd];
                let place = 4 * quarter + odd;
                add(rows[place], _mm512_castpd512_pd256(pair));
                add(rows[place + 2], _mm512_extractf64x4_pd::<1>(pair));
            }
        }
    }
}

/// # Safety
/// As [`add_to_rows_of_four`].
#[inline(always)]
unsafe fn add(row: *mut f64, values: __m256d) {
    // SAFETY: the caller's.
    unsafe { _mm256_storeu_pd(row, _mm256_add_pd(_mm256_loadu_pd(row), values)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::dispatch::{Instructions, instructions};

    #[test]
    fn rows_and_columns() {
        if instructions() != Instructions::Avx512 {
            return;
        }
        let numbers: [[f64; 8]; LANES] =
            std::array::from_fn(|row| std::array::from_fn(|k| (10 * row + k) as f64));
        let mut out = [F64x8([0.0; LANES]); 8];
        // SAFETY: the instructions were detected; rows have eight numbers.
        unsafe { columns_of_eight(&std::array::from_fn(|k| &numbers[k]), &mut out) };
        let mut four = [F64x8([0.0; LANES]); 4];
        let mut rows = [[1.0; 4]; LANES];
        // SAFETY: as above.
        unsafe {
            columns_of_four(
                &std::array::from_fn(|k| numbers[k][4..].as_ptr()),
                &mut four,
            );
            let starts = rows.each_mut().map(|row| row.as_mut_ptr());
            add_to_rows_of_four(&out[..4], &starts);
        }
        for row in 0..LANES {
            for k in 0..8 {
                assert_eq!(out[k].0[row], numbers[row][k]);
            }
            for k in 0..4 {
                assert_eq!(four[k].0[row], numbers[row][k + 4]);
                assert_eq!(rows[row][k], numbers[row][k] + 1.0);
            }
        }
    }
}
