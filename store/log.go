package store

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// quietFor is how long a repeated message of etcd is held back. When it is told
// again, it says how many were held back.
const quietFor = 10 * time.Second

// bridge passes etcd's warnings and errors on to slog, each message at most
// once in quietFor. A Fatal message is told and then ends the process, as etcd
// wants it: the state on a disk that failed cannot be trusted.
type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
	seen   *seen
}

// untrue are warnings that do not fit the way we use etcd: its clients' socket
// is a Unix socket of mode 0600.
var untrue = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"simple token is not cryptographically signed":                                         true,
	"serving client traffic insecurely; this is strongly discouraged!":                     true,
	"unable to set a member local address due to lack of suitable local addresses":         true,
}

type seen struct {
	mu   sync.Mutex
	hush bool  // it is being stopped: what breaks now shall break
	end  error // what made the server stop by itself
	last map[string]time.Time
	held map[string]int
}

func newZap(log *slog.Logger) *zap.Logger {
	return zap.New(&bridge{log: log, seen: &seen{last: map[string]time.Time{}, held: map[string]int{}}})
}

func (b *bridge) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (b *bridge) With(f []zapcore.Field) zapcore.Core {
	return &bridge{log: b.log, fields: append(slices.Clip(b.fields), f...), seen: b.seen}
}

func (b *bridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return c.AddCore(e, b)
	}
	return c
}

func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	fatal := e.Level >= zapcore.DPanicLevel
	held, tell := b.seen.tell(e.Message, e.Time, fatal)
	if !tell {
		return nil
	}
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range b.fields {
		f.AddTo(enc)
	}
	for _, f := range fields {
		f.AddTo(enc)
		if err, ok := f.Interface.(error); ok && e.Message == "server error" {
			b.seen.mu.Lock()
			b.seen.end = err
			b.seen.mu.Unlock()
		}
	}
	keys := make([]string, 0, len(enc.Fields))
	for k := range enc.Fields {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var attrs []slog.Attr
	for _, k := range keys {
		attrs = append(attrs, slog.Any(k, enc.Fields[k]))
	}
	if held > 0 {
		attrs = append(attrs, slog.Int("held_back", held))
	}
	level, text := slog.LevelWarn, "etcd: "+e.Message
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	if fatal {
		text = "the store ends itself, because etcd cannot go on: " + e.Message
	}
	b.log.LogAttrs(context.Background(), level, text, attrs...)
	return nil
}

// reason is what the server of this log stopped by itself for; nil if it told
// nothing.
func reason(log *zap.Logger) error {
	b, ok := log.Core().(*bridge)
	if !ok {
		return nil
	}
	b.seen.mu.Lock()
	defer b.seen.mu.Unlock()
	return b.seen.end
}

// hush keeps quiet about a server from here on, but for what is fatal.
func hush(log *zap.Logger) {
	if b, ok := log.Core().(*bridge); ok {
		b.seen.mu.Lock()
		defer b.seen.mu.Unlock()
		b.seen.hush = true
	}
}

func (b *bridge) Sync() error { return nil }

func (s *seen) tell(msg string, at time.Time, always bool) (held int, tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !always && (s.hush || untrue[msg]) {
		return 0, false
	}
	if last, ok := s.last[msg]; ok && !always && at.Sub(last) < quietFor {
		s.held[msg]++
		return 0, false
	}
	held = s.held[msg]
	delete(s.held, msg)
	s.last[msg] = at
	return held, true
}
