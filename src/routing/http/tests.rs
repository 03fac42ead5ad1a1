//! Which route is the most specific.
