//! Reloads, signals, certificates and the clock: faults C1 to C11, C13, C14.
