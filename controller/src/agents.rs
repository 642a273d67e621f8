//! The agents' side of the controller.
pub mod identity;
pub mod tokens;
