// Package sdksrc holds the SDK's source as every tenant's build sees it: a vendor
// directory in one archive, made from the tree by gen.
package sdksrc

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"

	"golang.org/x/tools/txtar"
)

//go:generate go run ./gen

//go:embed sdk.txtar
var archive []byte

// Files returns the vendor directory's files, modules.txt among them.
func Files() []txtar.File { return txtar.Parse(archive).Files }

// Digest names this copy of the SDK.
func Digest() string {
	sum := sha256.Sum256(archive)
	return hex.EncodeToString(sum[:])
}
