//! Socket options and process limits, shared by both planes.
