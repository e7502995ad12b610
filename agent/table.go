package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
	"mainstay/lease"
)

// table is a file of rows in /run, mapped into memory: what was put there
// outlives the process at once, however it dies, and costs no system call. Each
// row has two places written in turn, so that a kill in the middle of a write
// leaves the one before.
type table struct {
	data []byte
	slot map[boot]int
	rows []written
}

// boot is one boot of one host.
type boot struct{ host, id string }

// written is what was last written to a row, so that none is read again.
type written struct {
	of    boot
	taken bool
	seq   uint64
	next  int // the place that does not hold it
}

const (
	tableMagic = 0x4d53544159303153 // "MSTAY01S"
	headerLen  = 64
	placeLen   = 256
	slotLen    = 2 * placeLen
	hostLen    = 64
	bootLen    = 40
)

var errForeign = errors.New("written by another boot or another version")

// openTable maps the file, made for n rows if need be. rows is nil when no table
// of this boot was there: what was in it is then forgotten, and the caller must
// act as one who forgot.
func openTable(path, bootID string, n int) (t *table, rows []lease.Row, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open table %s: %w", path, err)
	}
	defer f.Close()
	size := headerLen + n*slotLen
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("look at table %s: %w", path, err)
	}
	known := info.Size() == int64(size)
	if !known {
		if err := errors.Join(f.Truncate(0), f.Truncate(int64(size))); err != nil {
			return nil, nil, fmt.Errorf("make table %s: %w", path, err)
		}
	}
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("map table %s: %w", path, err)
	}
	t = &table{data: data, slot: map[boot]int{}, rows: make([]written, n)}
	if known {
		if rows, err = t.load(bootID); err == nil {
			return t, rows, nil
		}
	}
	clear(data)
	copy(data[16:headerLen], bootID)
	binary.LittleEndian.PutUint64(data, tableMagic)
	t.slot, t.rows = map[boot]int{}, make([]written, n)
	return t, nil, nil
}

func (t *table) load(bootID string) ([]lease.Row, error) {
	if binary.LittleEndian.Uint64(t.data) != tableMagic || text(t.data[16:headerLen]) != bootID {
		return nil, errForeign
	}
	rows := []lease.Row{}
	for i := range t.rows {
		next := 1
		a, seqA, okA := decodeRow(t.place(i, 0))
		b, seqB, okB := decodeRow(t.place(i, 1))
		switch {
		case okB && (!okA || seqB > seqA):
			a, next = b, 0
		case !okA && seqA == 0 && seqB == 0:
			continue // never used
		case !okA:
			return nil, fmt.Errorf("row %d: neither place is whole", i)
		}
		of := boot{a.Stint.Host, a.Stint.Boot}
		t.slot[of], t.rows[i] = i, written{of: of, taken: true, seq: max(seqA, seqB), next: next}
		rows = append(rows, a)
	}
	return rows, nil
}

func (t *table) place(i, which int) []byte {
	from := headerLen + i*slotLen + which*placeLen
	return t.data[from : from+placeLen]
}

// put stores a row. It must be called before what the row says is told to
// anybody. A boot whose row is not among those kept any more gives its place to the
// next; kept is asked only when a place is sought.
func (t *table) put(r lease.Row, kept func() []lease.Row) error {
	of := boot{r.Stint.Host, r.Stint.Boot}
	i, ok := t.slot[of]
	if !ok {
		if i, ok = t.free(of.host, kept); !ok {
			return fmt.Errorf("ear table: no place for %s/%s: %d rows are taken", of.host, of.id, len(t.rows))
		}
		delete(t.slot, t.rows[i].of)
		t.slot[of], t.rows[i].of, t.rows[i].taken = i, of, true
	}
	w := &t.rows[i]
	if err := encodeRow(t.place(i, w.next), r, w.seq+1); err != nil {
		return err
	}
	w.next, w.seq = 1-w.next, w.seq+1
	return nil
}

// free finds a place: an unused one, or that of a boot of the same host that the
// ear no longer keeps.
func (t *table) free(host string, kept func() []lease.Row) (int, bool) {
	keep := map[boot]bool{}
	for _, r := range kept() {
		keep[boot{r.Stint.Host, r.Stint.Boot}] = true
	}
	for i, w := range t.rows {
		if !w.taken || !keep[w.of] && w.of.host == host {
			return i, true
		}
	}
	return 0, false
}

// A place: crc32, pad, sequence, host, boot, then the numbers.
func encodeRow(p []byte, r lease.Row, seq uint64) error {
	if len(r.Stint.Host) > hostLen || len(r.Stint.Boot) > bootLen {
		return fmt.Errorf("ear table: name %s/%s is too long", r.Stint.Host, r.Stint.Boot)
	}
	binary.LittleEndian.PutUint32(p, 0) // not whole until the sum is there
	clear(p[4:])
	binary.LittleEndian.PutUint64(p[8:], seq)
	copy(p[16:], r.Stint.Host)
	copy(p[16+hostLen:], r.Stint.Boot)
	at := 16 + hostLen + bootLen
	for _, v := range []uint64{
		r.Stint.N, uint64(r.Sent), uint64(r.First), uint64(r.Heard), uint64(r.Acked), uint64(r.Late), uint64(r.Promised), r.PromisedN,
	} {
		binary.LittleEndian.PutUint64(p[at:], v)
		at += 8
	}
	binary.LittleEndian.PutUint32(p, crc32.ChecksumIEEE(p[8:]))
	return nil
}

func decodeRow(p []byte) (lease.Row, uint64, bool) {
	seq := binary.LittleEndian.Uint64(p[8:])
	if seq == 0 || binary.LittleEndian.Uint32(p) != crc32.ChecksumIEEE(p[8:]) {
		return lease.Row{}, seq, false
	}
	at := 16 + hostLen + bootLen
	next := func() uint64 {
		v := binary.LittleEndian.Uint64(p[at:])
		at += 8
		return v
	}
	r := lease.Row{Stint: fleet.Stint{Host: text(p[16 : 16+hostLen]), Boot: text(p[16+hostLen : at])}}
	r.Stint.N, r.Sent, r.First = next(), fleet.Moment(next()), fleet.Moment(next())
	r.Heard, r.Acked, r.Late = fleet.Moment(next()), fleet.Moment(next()), time.Duration(next())
	r.Promised, r.PromisedN = fleet.Moment(next()), next()
	return r, seq, true
}

// text reads a name padded with zero bytes.
func text(p []byte) string {
	for i, b := range p {
		if b == 0 {
			return string(p[:i])
		}
	}
	return string(p)
}
