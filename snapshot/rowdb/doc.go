// Package rowdb opens a bbolt database for the moment of one transaction, among any number of processes.
//
// bbolt guards its file with a lock that it polls every 50 ms, which starves writers. So every transaction first takes a blocking
// flock of our own on a side file (NAME.lock, shared to read and exclusive to write): the kernel queues the waiters, and when bbolt
// then asks for its own lock nobody else can hold it.
//
// bbolt believes what it reads. So rows carry a checksum (Seal), a damaged file is an error and no panic, and Verify reads one without
// bbolt and tells what is wrong.
package rowdb
