// Package solo is the vocabulary of Solo: the nouns that every room speaks and
// the wires carry. It does no I/O and imports nothing of ours.
//
// The nouns: a tenant owns services; a [Service] runs one [Version] of a
// [Source] as numbered instances; every end of an instance is an [Exit]; every
// change is an [Event]; every refusal is an [Error] with one of a closed set of
// codes. [Operations] is the one table of what can be asked of the daemon; the
// gateways, the permission checks and the documents are made from it.
//
// JSON field names of the types here are the outside contract. A value that is
// absent is null, never missing, and a list is [], never null.
package solo
