// Package compiler makes an artifact of a source, or tells what is wrong with it.
//
// The nouns: a source is what a tenant wrote; findings are what the policy has
// against it, diagnostics what the compiler and the tests have; an [Artifact] is
// the binary; the key of an artifact is a digest of all that goes into it.
//
// What it promises:
//
//   - A build needs no network and no module cache, and sees the tenant's files,
//     the toolchain, the SDK that travels inside solod, and nothing else. Its
//     environment is closed.
//   - Nothing of a tenant's is run or read by a tool inside solod: parsing is all
//     that happens here; the toolchain and the tests run in a [Runner]'s bounds of
//     memory, time and output.
//   - Diagnostics are the compiler's own text, at the tenant's own file and line,
//     with no path of the host in them (contract 4b).
//   - Tests pass before there is an artifact. An artifact is whole, durable and
//     named by its key; equal builds at the same time are one build, which ends
//     when nobody waits for it any more.
//   - Artifacts are per tenant: whether another has built the same is not to be
//     told by the time it takes.
//
// The build cache holds the standard library and the SDK, and what builds add to
// it. All builds run as one user and share it; a build that writes into it what it
// should not is met by a layer over a read-only base in the issue that hardens the
// sandbox.
package compiler
