package store

import (
	"context"
	"io"
	"log/slog"
	"math"
	"sync"
	"time"
)

// Options tune a store. The zero value is right for production.
type Options struct {
	// Logger is where background work reports; nil means slog.Default().
	Logger *slog.Logger
	// MaxEvents, MaxEventBytes and MaxEventAge bound the history that watches
	// can be resumed from and old revisions be read in; 0 means 8192 events,
	// 8 MiB of encoded values, 10 minutes.
	MaxEvents     int
	MaxEventBytes int64
	MaxEventAge   time.Duration
	// RelaxedDelay is how long a relaxed write may stay in memory only; 0
	// means 500 ms.
	RelaxedDelay time.Duration
}

// reserve is how many revisions a commit sets aside for relaxed writes that
// may follow it. After a crash the revision continues behind them.
const reserve = 1 << 16

// Store is the key space. Its methods are safe for concurrent use.
type Store struct {
	log          *slog.Logger
	relaxedDelay time.Duration
	codecs       codecs

	state atomicState
	hub   hub

	queue queue
	// leader holds a token for whoever writes; it guards following.
	leader chan struct{}
	file   *file
	// master is the tree that the next batch starts from.
	master *tree
	// last is the last revision given out, whether or not its write succeeded.
	last uint64
	// reserved is the revision on disk up to which relaxed writes may go.
	reserved uint64
	// sum is the checksum of all entries of master.
	sum uint64
	// dirty holds what differs between master and disk: nil for deleted keys.
	dirty  map[string]*Entry
	closed bool

	leases leases

	kick   chan struct{} // there are relaxed writes to save, or an earlier expiry
	stop   context.CancelFunc
	ended  sync.WaitGroup
	finish sync.Once
	endErr error
}

// Open opens the store in the file at path, creating it when there is none.
// It answers *LockedError when another process has it open and *CorruptError
// when it is damaged.
func Open(path string, opts Options) (*Store, error) {
	s := &Store{
		log:          opts.Logger,
		relaxedDelay: opts.RelaxedDelay,
		leader:       make(chan struct{}, 1),
		dirty:        map[string]*Entry{},
		kick:         make(chan struct{}, 1),
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.relaxedDelay == 0 {
		s.relaxedDelay = 500 * time.Millisecond
	}
	s.hub = hub{
		maxEvents: opts.MaxEvents,
		maxBytes:  opts.MaxEventBytes,
		maxAge:    opts.MaxEventAge,
		watchers:  map[string]map[*Watcher]struct{}{},
	}
	if s.hub.maxEvents == 0 {
		s.hub.maxEvents = 8192
	}
	if s.hub.maxBytes == 0 {
		s.hub.maxBytes = 8 << 20
	}
	if s.hub.maxAge == 0 {
		s.hub.maxAge = 10 * time.Minute
	}
	if err := s.load(path); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.ended.Go(func() { s.background(ctx) })
	return s, nil
}

// load reads the file into memory.
func (s *Store) load(path string) error {
	f, err := openFile(path)
	if err != nil {
		return err
	}
	s.master = newTree()
	m, err := f.load(func(e *Entry) {
		e.codecs = &s.codecs
		s.master.ReplaceOrInsert(e)
		s.sum += uint64(e.sum)
		if !e.Expires.IsZero() {
			s.leases.add(e)
		}
	})
	if err != nil {
		f.close()
		return err
	}
	s.file = f
	s.last, s.reserved = m.reserved, m.reserved
	s.hub.floor = m.reserved
	s.state.Store(&state{tree: s.master.Clone(), revision: s.last})
	return nil
}

// SetCodec registers how the values below prefix, which ends in a slash, are
// decoded and stamped. The longest matching prefix wins.
func (s *Store) SetCodec(prefix string, c Codec) { s.codecs.set(prefix, c) }

// Path is the file of the store.
func (s *Store) Path() string { return s.file.path }

// Sync returns when every write that was visible before the call is on disk.
func (s *Store) Sync(ctx context.Context) error {
	if err := s.lead(ctx); err != nil {
		return err
	}
	defer s.unlead()
	return s.flush()
}

// Backup writes a consistent copy of the file, with everything visible at the
// time of the call, while reads and writes go on.
func (s *Store) Backup(ctx context.Context, w io.Writer) (int64, error) {
	if err := s.lead(ctx); err != nil {
		return 0, err
	}
	err := s.flush()
	if err != nil {
		s.unlead()
		return 0, err
	}
	snapshot, err := s.file.snapshot()
	s.unlead()
	if err != nil {
		return 0, err
	}
	return snapshot.copyTo(w)
}

// Close saves relaxed writes, ends all watches and closes the file. When the
// relaxed writes cannot be saved it says so, and the file is closed anyhow.
func (s *Store) Close() error {
	s.finish.Do(func() {
		s.stop()
		s.ended.Wait()
		s.leader <- struct{}{}
		defer s.unlead()
		s.closed = true
		s.endErr = s.file.commit(s.dirty, meta{reserved: s.last, sum: s.sum, count: s.master.Len()})
		s.hub.close(ErrClosed)
		if err := s.file.close(); s.endErr == nil {
			s.endErr = err
		}
		s.queue.fail(ErrClosed)
	})
	return s.endErr
}

// lead waits to become the one that may write.
func (s *Store) lead(ctx context.Context) error {
	select {
	case s.leader <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.closed {
		s.unlead()
		return ErrClosed
	}
	return nil
}

func (s *Store) unlead() { <-s.leader }

// flush puts relaxed writes on disk. The caller leads.
func (s *Store) flush() error {
	if len(s.dirty) == 0 {
		return nil
	}
	return s.commit(s.dirty, s.master, s.sum)
}

// commit puts changes, which make the disk equal to t, on disk.
func (s *Store) commit(changes map[string]*Entry, t *tree, sum uint64) error {
	m := meta{reserved: s.last + reserve, sum: sum, count: t.Len()}
	if err := s.file.commit(changes, m); err != nil {
		return err
	}
	s.reserved = m.reserved
	clear(s.dirty)
	return nil
}

// background saves relaxed writes, deletes expired keys and forgets old events.
func (s *Store) background(ctx context.Context) {
	const never = time.Duration(math.MaxInt64)
	timer := time.NewTimer(never)
	defer timer.Stop()
	age := time.NewTicker(s.hub.maxAge / 8)
	defer age.Stop()
	var saveAt time.Time
	for {
		wait := never
		if !saveAt.IsZero() {
			wait = time.Until(saveAt)
		}
		if next, ok := s.leases.next(); ok {
			wait = min(wait, time.Until(next))
		}
		timer.Reset(max(wait, 0))
		select {
		case <-ctx.Done():
			return
		case now := <-age.C:
			s.age(now)
			continue
		case <-s.kick:
			if saveAt.IsZero() {
				saveAt = time.Now().Add(s.relaxedDelay)
			}
			continue
		case now := <-timer.C:
			s.expire(ctx, now)
			if saveAt.IsZero() || now.Before(saveAt) {
				continue
			}
		}
		saveAt = s.save(ctx)
	}
}

// age forgets old events, and the decoded form of values that nobody has
// asked for since the last time: most objects are read when the process starts
// and then hardly ever.
func (s *Store) age(now time.Time) {
	s.hub.age(now)
	s.state.Load().tree.Ascend(func(e *Entry) bool {
		e.cool()
		return true
	})
}

// save puts relaxed writes on disk and answers when to try again, or zero.
func (s *Store) save(ctx context.Context) time.Time {
	err := s.Sync(ctx)
	if err == nil || ctx.Err() != nil {
		return time.Time{}
	}
	s.log.Error("saving recent state; trying again", "file", s.file.path, "error", err)
	return time.Now().Add(10 * time.Second)
}

func (s *Store) wakeBackground() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
