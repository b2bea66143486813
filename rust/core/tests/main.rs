//! Tests of the public interface, in one binary so that they are linked once.

mod cuda;
mod electrostatics;
mod mesh;
mod neighbors;
mod response;
