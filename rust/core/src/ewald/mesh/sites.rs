//! The Gaussians of one width: which sites and channels have it, and their multipoles as derivatives along the mesh.

use super::monomials::Expansion;
use super::splines::Splines;
use crate::arithmetic::Scalar;
use crate::ewald::density::{Density, distinct_widths};
use rayon::prelude::*;

/// Gaussians that share a width and therefore a mesh.
pub struct Group {
    pub width: f64,
    /// Places in the splines' order, ascending.
    pub places: Vec<u32>,
    /// site × n_channels + channel of each member.
    pub rows: Vec<u32>,
    /// The member at each site × n_channels + channel, or [`NOBODY`].
    members: Vec<u32>,
}

const NOBODY: u32 = u32::MAX;

impl Group {
    /// Splits a density by width. Widths below `floor` are raised to it.
    pub fn split<T: Scalar>(density: &Density<T>, splines: &Splines<T>, floor: f64) -> Vec<Self> {
        let n_channels = density.n_channels;
        let widths = distinct_widths(density.widths.iter().copied(), floor);
        let mut out: Vec<Self> = widths
            .iter()
            .map(|&width| Self {
                width,
                places: Vec::new(),
                rows: Vec::new(),
                members: vec![NOBODY; density.widths.len()],
            })
            .collect();
        for (place, &site) in splines.site.iter().enumerate() {
            for channel in 0..n_channels {
                let width = density.width(site as usize, channel).max(floor);
                let group = &mut out[widths.partition_point(|&w| w < width)];
                let row = site as usize * n_channels + channel;
                group.members[row] = group.places.len() as u32;
                group.places.push(place as u32);
                group.rows.push(row as u32);
            }
        }
        out
    }

    /// The member at a site × n_channels + channel.
    pub fn member(&self, row: usize) -> Option<usize> {
        let member = self.members[row];
        (member != NOBODY).then_some(member as usize)
    }

    /// Derivatives along the mesh of every member, `[member][monomial]`.
    pub fn expand<T: Scalar>(&self, density: &Density<T>, expansion: &Expansion<T>) -> Vec<T> {
        let n_lm = density.n_lm();
        let n = expansion.n_monomials;
        let mut out = vec![T::zero(); self.rows.len() * n];
        out.par_chunks_mut(n)
            .zip(&self.rows)
            .with_min_len(512)
            .for_each(|(monomials, &row)| {
                let p = &density.coefficients[row as usize * n_lm..][..n_lm];
                expansion.expand(p, monomials);
            });
        out
    }
}
