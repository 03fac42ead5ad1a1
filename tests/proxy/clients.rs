//! Clients that are slow, greedy, silent or gone: faults K1 to K3, K6, K7.
