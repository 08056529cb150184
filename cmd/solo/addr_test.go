package main

import (
	"net"
	"os"
	"testing"
)

// Whether somebody listens on the default port is not for a test to say, so that
// only the address is looked at.
func TestDefaultAddr(t *testing.T) {
	t.Chdir(t.TempDir())
	if got := defaultAddr(); got != "http://127.0.0.1:8080" {
		t.Errorf("without a socket: %s", got)
	}
	if err := os.MkdirAll("data", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(defaultSocket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := defaultAddr(); got != "http://127.0.0.1:8080" {
		t.Errorf("with a file in its place: %s", got)
	}
	if err := os.Remove(defaultSocket); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", defaultSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := defaultAddr(); got != "unix:./data/solo.sock" {
		t.Errorf("with a socket: %s", got)
	}
}
