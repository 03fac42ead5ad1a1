//! Backends that die, hang, flap, lie or come back: faults B2, B11 to B13, B22 to B24.
