package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// disk is a file system that forgets, at a power cut, whatever was not synced, as
// far as POSIX lets it: what was written to a file until its fsync, and what was
// made, removed or renamed in a directory until the directory's. Nothing of it is on
// a real disk.
type disk struct {
	mu   sync.Mutex
	root *node
	ino  uint64
	// changes counts what has been asked to change; before change number cutAt, the
	// power is cut. 0 is never.
	changes, cutAt int
	// kept is what a cut leaves of what was not synced.
	keep keeping
	// after is the disk as the cut leaves it, nil while there is power. Without power
	// nothing is answered until let is closed.
	after *disk
	cut   chan struct{}
	let   chan struct{}
	// deaf disks forget everything: an fsync is answered, and nothing is done.
	deaf bool

	server *fuse.Server
	path   string
}

// keeping decides over one page, or one directory, that was not synced: what a real
// disk has of it is a matter of luck.
type keeping func() bool

func nothing() bool { return false }

func byLuck(seed uint64) keeping {
	r := rand.New(rand.NewPCG(seed, 2))
	return func() bool { return r.IntN(2) == 0 }
}

const pageSize = 4096

// node is a file, a directory or anything else with a name. What is in stable
// survives a cut; the rest is what the system sees.
type node struct {
	fs.Inode
	disk *disk
	ino  uint64
	state
	stable state
	// dirty are the pages of data that are not in stable.data; entries tells that the
	// names are not those of stable.
	dirty   map[int]bool
	renamed bool
}

type state struct {
	mode, uid, gid uint32
	links          uint32
	mtime          time.Time
	size           int
	data           []byte
	names          map[string]*node
	target         string
}

func newDisk() *disk {
	d := &disk{cut: make(chan struct{}), let: make(chan struct{}), keep: nothing}
	d.root = d.node(syscall.S_IFDIR|0o755, 0, 0)
	return d
}

func (d *disk) node(mode, uid, gid uint32) *node {
	d.ino++
	n := &node{disk: d, ino: d.ino + 1, dirty: map[int]bool{}}
	n.state = state{mode: mode, uid: uid, gid: gid, links: 1, mtime: time.Now(), names: map[string]*node{}}
	n.stable = state{mode: mode, uid: uid, gid: gid, links: 1, mtime: n.mtime, names: map[string]*node{}}
	return n
}

// mount shows the disk at a directory, which is made.
func (d *disk) mount(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	// go-fuse would open it without O_CLOEXEC, and whoever inherits it keeps the mount
	// alive.
	fd, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0,allow_other,default_permissions", fd, syscall.S_IFDIR)
	if err := syscall.Mount("power", path, "fuse.power", syscall.MS_NODEV, options); err != nil {
		syscall.Close(fd)
		return err
	}
	hour := time.Hour
	server, err := fs.Mount(fmt.Sprint("/dev/fd/", fd), d.root, &fs.Options{
		EntryTimeout: &hour, AttrTimeout: &hour, RootStableAttr: &fs.StableAttr{Ino: d.root.ino},
		MountOptions: fuse.MountOptions{ExplicitDataCacheControl: true, DisableXAttrs: true},
	})
	if err != nil {
		syscall.Unmount(path, syscall.MNT_DETACH)
		return err
	}
	d.server, d.path = server, path
	return nil
}

// unmount ends the disk; who still has a file there meets an error from then on.
func (d *disk) unmount() error {
	if d.server == nil {
		return nil
	}
	// The kernel lets go of it with the last file of a process that is ending.
	err := syscall.Unmount(d.path, syscall.MNT_DETACH)
	if err == nil {
		d.server.Wait()
	}
	d.server = nil
	return err
}

// changed is how many changes there were.
func (d *disk) changed() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changes
}

// powerOff cuts the power now, if nothing has yet, and returns the disk as it is
// afterwards. Whoever asks for something is not answered before release.
func (d *disk) powerOff() *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off()
	return d.after
}

func (d *disk) off() {
	if d.after != nil {
		return
	}
	d.after = newDisk()
	d.after.root = d.survivor(d.after, d.root, map[*node]*node{})
	close(d.cut)
}

// release gives an error to whoever has been waiting since the cut: who asked is
// about to end.
func (d *disk) release() { close(d.let) }

// survivor is what is left of a node.
func (d *disk) survivor(to *disk, n *node, known map[*node]*node) *node {
	if s, ok := known[n]; ok {
		s.links++
		s.stable.links++
		return s
	}
	s := to.node(n.stable.mode, n.stable.uid, n.stable.gid)
	known[n] = s
	s.mtime, s.target = n.stable.mtime, n.stable.target
	left := n.stable
	s.data = append([]byte(nil), left.data...)
	if n.size != left.size && d.keep() {
		s.data = resized(s.data, n.size)
	}
	for page := range n.dirty {
		if from := page * pageSize; d.keep() && from < len(s.data) && from < n.size {
			copy(s.data[from:min(from+pageSize, len(s.data))], n.data[from:n.size])
		}
	}
	s.size = len(s.data)
	names := left.names
	if n.renamed && d.keep() {
		names = n.names
	}
	for name, child := range names {
		s.names[name] = d.survivor(to, child, known)
	}
	s.stable = s.copy()
	return s
}

// copy is the state with memory of its own.
func (s *state) copy() state {
	c := *s
	c.data = append([]byte(nil), s.data...)
	c.names = make(map[string]*node, len(s.names))
	for name, child := range s.names {
		c.names[name] = child
	}
	return c
}

func resized(data []byte, size int) []byte {
	if size <= len(data) {
		return data[:size:size]
	}
	if size <= cap(data) {
		grown := data[:size]
		clear(grown[len(data):])
		return grown
	}
	grown := make([]byte, size, max(size, 2*cap(data)))
	copy(grown, data)
	return grown
}

// list is what the files of a directory hold, as the system sees it.
func (d *disk) list(path string) map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.root
	for name := range strings.SplitSeq(path, "/") {
		if n = n.names[name]; n == nil {
			return nil
		}
	}
	out := map[string][]byte{}
	for name, child := range n.names {
		out[name] = append([]byte(nil), child.data[:child.size]...)
	}
	return out
}

// dump writes the whole disk to a directory of a real one.
func (d *disk) dump(dir string) error { return d.root.dump(dir) }

func (n *node) dump(path string) error {
	mode := os.FileMode(n.mode & 0o777)
	switch n.mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Truncate(int64(n.size)); err != nil {
			return err
		}
		empty := make([]byte, pageSize)
		for from := 0; from < n.size; from += pageSize {
			if page := n.data[from:min(from+pageSize, n.size)]; !bytes.Equal(page, empty[:len(page)]) {
				if _, err := f.WriteAt(page, int64(from)); err != nil {
					return err
				}
			}
		}
	case syscall.S_IFDIR:
		if err := os.MkdirAll(path, mode|0o700); err != nil {
			return err
		}
		for name, child := range n.names {
			if err := child.dump(filepath.Join(path, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// look waits while there is no power, and is let in with the lock held. A change
// may be the moment of the cut.
func (d *disk) look(change bool) syscall.Errno {
	d.mu.Lock()
	if change && d.after == nil {
		if d.changes++; d.changes == d.cutAt {
			d.off()
		}
	}
	if d.after == nil {
		return 0
	}
	d.mu.Unlock()
	<-d.let
	return syscall.EIO
}

func (n *node) attr(out *fuse.Attr) {
	out.Ino, out.Mode, out.Nlink, out.Size = n.ino, n.mode, n.links, uint64(n.size)
	out.Owner = fuse.Owner{Uid: n.uid, Gid: n.gid}
	out.Blksize, out.Blocks = pageSize, uint64(n.size+511)/512
	out.SetTimes(&n.mtime, &n.mtime, &n.mtime)
}

// inode is the kernel's handle of a node.
func (n *node) inode(ctx context.Context, child *node) *fs.Inode {
	return n.NewInode(ctx, child, fs.StableAttr{Mode: child.mode & syscall.S_IFMT, Ino: child.ino})
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.disk.look(false); errno != 0 {
		return nil, errno
	}
	defer n.disk.mu.Unlock()
	child := n.names[name]
	if child == nil {
		return nil, syscall.ENOENT
	}
	child.attr(&out.Attr)
	return n.inode(ctx, child), 0
}

func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if errno := n.disk.look(false); errno != 0 {
		return errno
	}
	defer n.disk.mu.Unlock()
	n.attr(&out.Attr)
	return 0
}

func (n *node) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if errno := n.disk.look(true); errno != 0 {
		return errno
	}
	defer n.disk.mu.Unlock()
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&syscall.S_IFMT | mode&0o7777
	}
	if uid, ok := in.GetUID(); ok {
		n.uid = uid
	}
	if gid, ok := in.GetGID(); ok {
		n.gid = gid
	}
	if mtime, ok := in.GetMTime(); ok {
		n.mtime = mtime
	}
	if size, ok := in.GetSize(); ok {
		n.resize(int(size))
	}
	n.attr(&out.Attr)
	return 0
}

func (n *node) resize(size int) {
	for page := min(size, n.size) / pageSize; page*pageSize < max(size, n.size); page++ {
		n.dirty[page] = true
	}
	n.data, n.size = resized(n.data, size), size
}

// add makes a new entry.
func (n *node) add(ctx context.Context, name string, mode uint32, target string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	caller, _ := fuse.FromContext(ctx)
	if errno := n.disk.look(true); errno != 0 {
		return nil, errno
	}
	defer n.disk.mu.Unlock()
	if n.names[name] != nil {
		return nil, syscall.EEXIST
	}
	child := n.disk.node(mode, caller.Uid, caller.Gid)
	child.target, child.stable.target = target, target
	n.names[name] = child
	n.touch()
	child.attr(&out.Attr)
	return n.inode(ctx, child), 0
}

func (n *node) touch() {
	n.renamed = true
	n.mtime = time.Now()
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.add(ctx, name, mode&0o7777|syscall.S_IFDIR, "", out)
}

func (n *node) Mknod(ctx context.Context, name string, mode, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.add(ctx, name, mode, "", out)
}

func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.add(ctx, name, syscall.S_IFLNK|0o777, target, out)
}

func (n *node) Readlink(context.Context) ([]byte, syscall.Errno) { return []byte(n.target), 0 }

func (n *node) Create(ctx context.Context, name string, _, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	child, errno := n.add(ctx, name, mode&0o7777|syscall.S_IFREG, "", out)
	return child, nil, fuse.FOPEN_KEEP_CACHE, errno
}

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.disk.look(true); errno != 0 {
		return nil, errno
	}
	defer n.disk.mu.Unlock()
	child := target.(*node)
	if n.names[name] != nil {
		return nil, syscall.EEXIST
	}
	n.names[name] = child
	child.links++
	n.touch()
	child.attr(&out.Attr)
	return n.inode(ctx, child), 0
}

func (n *node) remove(name string) syscall.Errno {
	if errno := n.disk.look(true); errno != 0 {
		return errno
	}
	defer n.disk.mu.Unlock()
	child := n.names[name]
	if child == nil {
		return syscall.ENOENT
	}
	if len(child.names) > 0 {
		return syscall.ENOTEMPTY
	}
	delete(n.names, name)
	child.links--
	n.touch()
	return 0
}

func (n *node) Unlink(_ context.Context, name string) syscall.Errno { return n.remove(name) }
func (n *node) Rmdir(_ context.Context, name string) syscall.Errno  { return n.remove(name) }

// noReplace is RENAME_NOREPLACE of renameat2(2).
const noReplace = 1

func (n *node) Rename(_ context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if flags&^noReplace != 0 {
		return syscall.EINVAL
	}
	if errno := n.disk.look(true); errno != 0 {
		return errno
	}
	defer n.disk.mu.Unlock()
	to := parent.(*node)
	moved, old := n.names[name], to.names[newName]
	switch {
	case moved == nil:
		return syscall.ENOENT
	case old == moved:
		return 0
	case old != nil && flags&noReplace != 0:
		return syscall.EEXIST
	case old != nil && len(old.names) > 0:
		return syscall.ENOTEMPTY
	case old != nil:
		old.links--
	}
	delete(n.names, name)
	to.names[newName] = moved
	n.touch()
	to.touch()
	return 0
}

func (n *node) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	if errno := n.disk.look(false); errno != 0 {
		return nil, errno
	}
	defer n.disk.mu.Unlock()
	var list []fuse.DirEntry
	for name, child := range n.names {
		list = append(list, fuse.DirEntry{Name: name, Mode: child.mode, Ino: child.ino})
	}
	return fs.NewListDirStream(list), 0
}

// Open keeps what the kernel has cached: nobody else changes it.
func (n *node) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (n *node) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := n.disk.look(false); errno != 0 {
		return nil, errno
	}
	defer n.disk.mu.Unlock()
	if off >= int64(n.size) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, n.data[off:n.size])]), 0
}

func (n *node) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := n.disk.look(true); errno != 0 {
		return 0, errno
	}
	defer n.disk.mu.Unlock()
	if end := int(off) + len(data); end > n.size {
		n.resize(end)
	}
	copy(n.data[off:], data)
	for page := int(off) / pageSize; page*pageSize < int(off)+len(data); page++ {
		n.dirty[page] = true
	}
	n.mtime = time.Now()
	return uint32(len(data)), 0
}

func (n *node) Flush(context.Context, fs.FileHandle) syscall.Errno { return 0 }

// Fsync makes a file's content, or a directory's names, survive.
func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	if errno := n.disk.look(true); errno != 0 {
		return errno
	}
	defer n.disk.mu.Unlock()
	if n.disk.deaf {
		return 0
	}
	stable := n.stable.data
	if n.mode&syscall.S_IFMT == syscall.S_IFREG {
		stable = resized(stable, n.size)
		for page := range n.dirty {
			if from := page * pageSize; from < n.size {
				copy(stable[from:], n.data[from:min(from+pageSize, n.size)])
			}
		}
		clear(n.dirty)
	}
	names := n.names
	n.stable = n.state
	n.stable.data = stable
	n.stable.names = make(map[string]*node, len(names))
	for name, child := range names {
		n.stable.names[name] = child
	}
	n.renamed = false
	return 0
}

// Statfs tells of a disk with room.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	*out = fuse.StatfsOut{Bsize: pageSize, Frsize: pageSize, Blocks: 1 << 24, Bfree: 1 << 24, Bavail: 1 << 24, Files: 1 << 24, Ffree: 1 << 24, NameLen: 255}
	return 0
}

var _ = []any{
	fs.NodeLookuper(&node{}), fs.NodeGetattrer(&node{}), fs.NodeSetattrer(&node{}), fs.NodeMkdirer(&node{}), fs.NodeMknoder(&node{}),
	fs.NodeSymlinker(&node{}), fs.NodeReadlinker(&node{}), fs.NodeCreater(&node{}), fs.NodeLinker(&node{}), fs.NodeUnlinker(&node{}),
	fs.NodeRmdirer(&node{}), fs.NodeRenamer(&node{}), fs.NodeReaddirer(&node{}), fs.NodeOpener(&node{}), fs.NodeReader(&node{}),
	fs.NodeWriter(&node{}), fs.NodeFlusher(&node{}), fs.NodeFsyncer(&node{}), fs.NodeStatfser(&node{}),
}

// needFUSE skips a test where no file system of its own can be mounted.
func needFUSE(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a power cut needs root, to mount a file system that forgets")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENXIO) {
		t.Skip(fmt.Sprint("a power cut needs a file system that forgets: ", err))
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
