//! MT-8: a process that shares a connection is killed, by `SIGKILL`, at each step of what it does;
//! the other goes on. Needs the feature `fault-injection`, which counts the steps: before and after
//! each store to shared memory, and each system call on the socket.
//!
//! What must hold at every point: what was accepted arrives, once, in order; what was not, in part or
//! not at all; every byte in a record of the type that was asked for, a control record whole or
//! not at all; and no number is sealed with two plaintexts (design rule 1).

mod receiving;
mod sending;
mod world;
