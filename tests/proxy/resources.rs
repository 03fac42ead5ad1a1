//! Descriptors, memory, CPU, disk and threads run out: faults R1 to R6.
