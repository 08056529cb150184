package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// keySize is that of every key: AES-256.
const keySize = 32

// errSealed is what does not open: another key, another place, or changed bytes.
var errSealed = errors.New("it does not open")

// bound is what a ciphertext is bound to. The parts are told apart by their
// lengths, so that no two places have the same.
func bound(purpose string, parts ...string) []byte {
	out := []byte("solo vault 1 ")
	for _, p := range append([]string{purpose}, parts...) {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p)))
		out = append(out, p...)
	}
	return out
}

func aead(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// seal encrypts; the nonce stands before the ciphertext, the tag behind it.
func seal(key, plain, place []byte) ([]byte, error) {
	c, err := aead(key)
	if err != nil {
		return nil, err
	}
	return c.Seal(make([]byte, 0, len(plain)+c.Overhead()), nil, plain, place), nil
}

// unseal decrypts what seal has made for that place.
func unseal(key, sealed, place []byte) ([]byte, error) {
	c, err := aead(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < c.Overhead() {
		return nil, errSealed
	}
	plain, err := c.Open(nil, nil, sealed, place)
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

// derive makes a key of a key.
func derive(key, salt []byte, info string) ([]byte, error) {
	out, err := hkdf.Key(sha256.New, key, salt, info, keySize)
	if err != nil {
		return nil, fmt.Errorf("cannot derive a key: %w", err)
	}
	return out, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails (crypto/rand)
	return b
}
