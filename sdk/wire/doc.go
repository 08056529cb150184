// Package wire is the one protocol between solod and a service's process, spoken
// by both. It is not for authors: package sdk is.
//
// A process listens on one unix socket, [SocketName] in the directory that
// $PLUGIN_UNIX_SOCKET_DIR names, and says so on its standard output in the line
// of [Handshake]. The socket has two faces, told apart by the first four bytes of
// a connection.
//
// # The control face
//
// A connection that begins with HTTP/2's preface is go-plugin's. It gets constant
// unary replies: the health check, Shutdown, and "unimplemented" for all else. See
// control.go.
//
// # The data face
//
// A connection that begins with [Magic] carries calls, one at a time. A caller
// that wants to cancel one closes the connection. The same protocol, with the
// roles exchanged, runs over [HostSocketName], which solod makes beside the
// process's own socket: the socket is the identity of who calls there.
//
// A call is a message each way. A message is a Head frame, any number of Body
// frames, and an End frame:
//
//	frame   = type (1 byte) length (4 bytes) payload (length bytes)
//	type    = 'H' | 'B' | 'E'
//	string  = length (2 bytes) bytes
//	pairs   = count (2 bytes) { string string }
//
//	Head of a call   = kind (1) timeout in ms, 0 for none (4) method (string)
//	                   content type (string) metadata (pairs)
//	Head of a reply  = content type (string) metadata (pairs)
//	End of a call    = nothing
//	End of a reply   = code (string) message (string); an empty code is success
//
// Numbers are big-endian. Bytes behind the fields of a Head or an End are for
// later versions and are passed over. Every length is checked against its bound
// before anything is read for it: [MaxHead] for Head and End, [MaxChunk] for
// Body, and for the bodies of one message together what the reader allows.
//
// The kinds of a call to a service are Start, Call, Health, Ping and Stop, and of
// one to solod Log, whose method is the level, and Host, whose method is what is
// asked for: "secret", "call" or "emit", with its arguments as metadata. Kinds from 64 on are kept for messages that stream: their
// bodies would follow one another both ways until either End.
//
// [Version] is part of the handshake; a side that does not know the other's ends
// the connection.
package wire

// What the handshake is made of.
const (
	// Version is that of this protocol; go-plugin calls it the app's.
	Version = 1
	// CookieKey and CookieValue are in a process's environment when solod, or
	// another go-plugin host, has started it.
	CookieKey   = "SOLO_PLUGIN"
	CookieValue = "5d1c0a9e7b3f4e62"
	// SocketName is the process's own socket, HostSocketName solod's.
	SocketName     = "p.sock"
	HostSocketName = "host.sock"
	// SocketDirEnv names the directory of both.
	SocketDirEnv = "PLUGIN_UNIX_SOCKET_DIR"
	// Magic begins a connection to the data face.
	Magic = "SOL1"
)

// Handshake is the line that a process prints once it listens on path.
func Handshake(path string) string { return "1|1|unix|" + path + "|grpc" }

// Bounds, in bytes.
const (
	MaxHead  = 64 << 10
	MaxChunk = 256 << 10
	// MaxBody bounds a call's body and a reply's (contract 4b).
	MaxBody = 8 << 20
)

// Kind says what a call is.
type Kind uint8

// The kinds. Log and Host are calls to solod, the others are calls to a service.
const (
	KindStart Kind = 1 + iota
	KindCall
	KindHealth
	KindPing
	KindStop
	KindLog
	KindHost
)
