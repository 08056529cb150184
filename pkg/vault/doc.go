// Package vault keeps secrets so that a stolen disk does not give them.
//
// The nouns: a secret is a value of a tenant under a name, with a version; each
// version has a data key of its own, which encrypts it; the data key is wrapped
// under the keyring's current term; the keyring is sealed by the unlock key, which
// comes from outside the stores: a key file, a credential of systemd, or a
// passphrase.
//
// What it promises:
//
//   - AES-256-GCM throughout, with 12-byte nonces and 16-byte tags. What is sealed is
//     bound to its purpose, tenant, name and version, so that no ciphertext can be
//     moved to another place. A wrapping key is used once: it is derived from the term
//     and a salt of the record's own, so that no count of nonces is needed.
//   - Nothing is sealed under a key that is not in memory: a vault that is locked
//     refuses, and says so.
//   - A wrong key is told from a damaged store, and an unlock key is never replaced
//     because it is missing: what it sealed would be lost.
//   - A secret's old version goes when a new one comes, and all of it when it is
//     revoked. Pages that the store has freed can still hold a wrapped data key until
//     they are used again; after a rotation nothing opens it.
//   - A caller's own key locks a value once more, and is kept nowhere.
//   - A rotation changes the key file, the term and every wrapping, and goes on where
//     it was after a crash at any step. Keys that are derived ([Vault.Derive]) stay.
//
// The sealed secrets live in the store of the event log, so that one transaction
// holds both; the keyring has a store of its own.
package vault
