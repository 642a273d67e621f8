//! The public side: REST ([`rest`]) and gRPC ([`grpc`]) over one [`Service`](crate::service::Service), who may call
//! ([`auth`]), how a refusal looks ([`problem`]), what is noted of each call ([`observe`]), and the OpenAPI document
//! that is made from the same types ([`openapi`]).
//!
//! Protocols only: no rule about storage is decided here. The listener, TLS and the limits of connections are not
//! here either.

pub mod auth;
mod body;
pub mod grpc;
mod negotiate;
pub mod observe;
pub mod openapi;
mod params;
pub mod problem;
pub mod rest;

pub use self::{
    auth::Bearer,
    grpc::grpc_router,
    observe::{Metrics, RequestDone},
    rest::rest_router,
};
