// Package daemon is the composition root of solod: it reads the configuration,
// takes the data directory, builds the rooms in order, runs them, and ends them
// in reverse.
//
// The nouns: a [Config] is what the operator decided; a part is something that
// runs for as long as the daemon does.
//
// What it promises: one daemon a data directory; a start that fails says which
// part could not be built and leaves nothing; SIGTERM ends all within
// solo.shutdown_s with nothing left behind, and the same end comes to a daemon
// one of whose parts has failed.
package daemon
