//! The operators of a plan, as tract nodes that compute with [`kernels`](super::kernels).

pub mod attention;
mod attention_int8;
pub mod embed;
pub mod feed_forward;
#[allow(unsafe_code)]
pub mod linear;
pub mod norm;
pub mod pool;
