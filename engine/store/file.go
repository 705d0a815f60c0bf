package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// The format is described in docs/formats/store.md; change both together.
const formatVersion = 1

// lockPatience is how long Open waits for a process that is just going away.
const lockPatience = 250 * time.Millisecond

var (
	metaBucket    = []byte("gantry")
	objectsBucket = []byte("objects")
	metaKey       = []byte("meta")
	castagnoli    = crc32.MakeTable(crc32.Castagnoli)
)

// meta is what each commit writes beside the records.
type meta struct {
	// reserved is the revision from which the next opening continues.
	reserved uint64
	// count and sum check that the records are exactly those of one commit.
	count int
	sum   uint64
}

const metaSize = 4 + 8 + 8 + 8 + 4

func (m meta) encode() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, metaSize), formatVersion)
	b = binary.BigEndian.AppendUint64(b, m.reserved)
	b = binary.BigEndian.AppendUint64(b, uint64(m.count))
	b = binary.BigEndian.AppendUint64(b, m.sum)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeMeta(b []byte) (meta, error) {
	if len(b) < 4 {
		return meta{}, errors.New("it is not a state file of gantry")
	}
	if v := binary.BigEndian.Uint32(b); v != formatVersion {
		return meta{}, fmt.Errorf("its format is version %d, this gantry reads version %d", v, formatVersion)
	}
	if len(b) != metaSize || crc32.Checksum(b[:metaSize-4], castagnoli) != binary.BigEndian.Uint32(b[metaSize-4:]) {
		return meta{}, errors.New("the checksum of its meta record is wrong")
	}
	return meta{
		reserved: binary.BigEndian.Uint64(b[4:]),
		count:    int(binary.BigEndian.Uint64(b[12:])),
		sum:      binary.BigEndian.Uint64(b[20:]),
	}, nil
}

const recordHeader = 4 + 8 + 8 + 8

// header is the fixed part of e's record after the checksum.
func (e *Entry) header() [recordHeader - 4]byte {
	var h [recordHeader - 4]byte
	binary.BigEndian.PutUint64(h[0:], e.CreateRevision)
	binary.BigEndian.PutUint64(h[8:], e.ModRevision)
	if !e.Expires.IsZero() {
		binary.BigEndian.PutUint64(h[16:], uint64(e.Expires.UnixMilli()))
	}
	return h
}

// recordSum is the checksum over key, header and data.
func recordSum(e *Entry) uint32 {
	h := e.header()
	sum := crc32.Checksum([]byte(e.Key), castagnoli)
	sum = crc32.Update(sum, castagnoli, h[:])
	return crc32.Update(sum, castagnoli, e.Data)
}

func (e *Entry) encode() []byte {
	h := e.header()
	b := make([]byte, 0, recordHeader+len(e.Data))
	b = binary.BigEndian.AppendUint32(b, e.sum)
	b = append(b, h[:]...)
	return append(b, e.Data...)
}

func decodeEntry(key, b []byte) (*Entry, error) {
	if len(b) < recordHeader {
		return nil, fmt.Errorf("the record of key %q is cut off", key)
	}
	e := &Entry{
		Key:            string(key),
		sum:            binary.BigEndian.Uint32(b),
		CreateRevision: binary.BigEndian.Uint64(b[4:]),
		ModRevision:    binary.BigEndian.Uint64(b[12:]),
		Data:           bytes.Clone(b[recordHeader:]),
	}
	if ms := binary.BigEndian.Uint64(b[20:]); ms != 0 {
		e.Expires = time.UnixMilli(int64(ms))
	}
	if recordSum(e) != e.sum {
		return nil, fmt.Errorf("the checksum of key %q is wrong", key)
	}
	return e, nil
}

// file is the bbolt file. Only the leader calls its methods.
type file struct {
	path string
	db   *bbolt.DB
}

// openFile opens and locks the file at path. A file that does not exist is
// made under another name first, so that one cut off half-way is never taken
// for a damaged one, nor a damaged one for a new one.
func openFile(path string) (*file, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = createFile(path); err == nil {
			info, err = os.Stat(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open state file: %w", err)
	}
	if info.Size() == 0 {
		return nil, &CorruptError{Path: path, Reason: errors.New("it is empty")}
	}
	f := &file{path: path}
	var opened *os.File
	opts := boltOptions()
	opts.OpenFile = func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
		opened, err = os.OpenFile(name, flag&^os.O_CREATE, mode)
		return opened, err
	}
	err = guard(func() (err error) {
		f.db, err = bbolt.Open(path, 0o600, opts)
		return err
	})
	if err != nil && opened != nil {
		// When bbolt panics it leaves the file mapped, and the mapping holds
		// the lock even after the file is closed.
		_ = syscall.Flock(int(opened.Fd()), syscall.LOCK_UN)
		opened.Close()
	}
	switch {
	case err == nil:
		f.db.AllocSize = allocSize
		return f, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, &LockedError{Path: path, Holder: lockHolder(info)}
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOSPC):
		return nil, fmt.Errorf("open state file: %w", err)
	default:
		return nil, &CorruptError{Path: path, Reason: err}
	}
}

// allocSize is the step by which the file grows.
const allocSize = 1 << 20

func boltOptions() *bbolt.Options {
	return &bbolt.Options{
		Timeout:         lockPatience,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: 64 << 20, // address space only: a backup then never holds up a growing file
		NoStatistics:    true,
	}
}

// createFile makes an empty store at path, complete or not at all.
func createFile(path string) error {
	tmp := fmt.Sprintf("%s.new-%d", path, os.Getpid())
	defer os.Remove(tmp)
	db, err := bbolt.Open(tmp, 0o600, boltOptions())
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	db.AllocSize = allocSize
	err = db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucket(objectsBucket); err != nil {
			return err
		}
		b, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		// Revision 0 means "any" to clients; the first one is 1.
		return b.Put(metaKey, meta{reserved: 1}.encode())
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	// Link, unlike rename, cannot replace the file of a process that was faster.
	if err := os.Link(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load calls each with every entry, in key order, and checks all of them.
func (f *file) load(each func(*Entry)) (meta, error) {
	var m meta
	err := guard(func() error {
		return f.db.View(func(tx *bbolt.Tx) error {
			mb, ob := tx.Bucket(metaBucket), tx.Bucket(objectsBucket)
			if mb == nil || ob == nil {
				return errors.New("it is not a state file of gantry")
			}
			var err error
			if m, err = decodeMeta(mb.Get(metaKey)); err != nil {
				return err
			}
			count, sum := 0, uint64(0)
			err = ob.ForEach(func(k, v []byte) error {
				e, err := decodeEntry(k, v)
				if err != nil {
					return err
				}
				count++
				sum += uint64(e.sum)
				each(e)
				return nil
			})
			if err != nil {
				return err
			}
			if count != m.count || sum != m.sum {
				return fmt.Errorf("it holds %d records with checksum %x, its last commit wrote %d with %x", count, sum, m.count, m.sum)
			}
			return nil
		})
	})
	if err != nil {
		return meta{}, &CorruptError{Path: f.path, Reason: err}
	}
	return m, nil
}

// guard turns bbolt's panics on damaged pages, and page faults beyond the end
// of a cut-off file, into errors.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("unreadable page: %v", r)
		}
	}()
	return fn()
}

// commit writes changes (nil deletes) and m in one transaction and returns
// when it is on disk.
func (f *file) commit(changes map[string]*Entry, m meta) error {
	err := f.db.Update(func(tx *bbolt.Tx) error {
		objects := tx.Bucket(objectsBucket)
		for key, e := range changes {
			var err error
			if e == nil {
				err = objects.Delete([]byte(key))
			} else {
				err = objects.Put([]byte(key), e.encode())
			}
			if err != nil {
				return fmt.Errorf("key %q: %w", key, err)
			}
		}
		return tx.Bucket(metaBucket).Put(metaKey, m.encode())
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT),
		// bbolt does not wrap what it gets when it grows the file.
		strings.Contains(err.Error(), syscall.ENOSPC.Error()):
		return &NoSpaceError{Path: f.path, Err: err}
	default:
		return fmt.Errorf("write %s: %w", f.path, err)
	}
}

// snapshot is the file at one moment.
type snapshot struct{ tx *bbolt.Tx }

func (f *file) snapshot() (snapshot, error) {
	tx, err := f.db.Begin(false)
	if err != nil {
		return snapshot{}, fmt.Errorf("back up %s: %w", f.path, err)
	}
	return snapshot{tx}, nil
}

func (s snapshot) copyTo(w io.Writer) (int64, error) {
	n, err := s.tx.WriteTo(w)
	if err = errors.Join(err, s.tx.Rollback()); err != nil {
		return n, fmt.Errorf("back up the state file: %w", err)
	}
	return n, nil
}

func (f *file) close() error {
	if err := f.db.Close(); err != nil {
		return fmt.Errorf("close %s: %w", f.path, err)
	}
	return nil
}

// lockHolder finds out from the kernel who holds the lock on a file, or
// answers "".
func lockHolder(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return ""
	}
	defer locks.Close()
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	for sc := bufio.NewScanner(locks); sc.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF
		fields := strings.Fields(sc.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], inode) {
			continue
		}
		name, err := os.ReadFile("/proc/" + fields[4] + "/comm")
		if err != nil {
			return ""
		}
		return fmt.Sprintf("process %s (%s)", fields[4], strings.TrimSpace(string(name)))
	}
	return ""
}
