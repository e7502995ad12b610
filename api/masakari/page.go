package masakari

import (
	"cmp"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 9562 makes version 5 of it; nothing secret rests on it
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// most is how many things one answer has, Masakari's osapi_max_limit.
const most = 1000

// page cuts a list as the query has it: filters leave what has those values, sort_key and
// sort_dir order it (created_at, the newest first, if nothing is said), and marker, an id or a UUID,
// and limit cut it.
func (r *request) page(list []object, uuid string, columns ...string) ([]object, error) {
	q := r.URL.Query()
	limit := most
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return nil, refuse(400, "Invalid input received: limit must be an integer of at least 0, not %.50q", s)
		}
		if n > 0 {
			limit = min(n, most)
		}
	}
	keys, dirs := q["sort_key"], q["sort_dir"]
	if len(keys) == 0 {
		keys = []string{"created_at"}
	}
	for len(dirs) < len(keys) {
		dirs = append(dirs, "desc")
	}
	for i, key := range keys {
		if dirs[i] != "asc" && dirs[i] != "desc" {
			return nil, refuse(400, "Unknown sort direction, must be one of: asc, desc")
		}
		if !slices.Contains(columns, key) {
			return nil, refuse(400, "Sort key supplied was not valid.")
		}
	}
	slices.SortStableFunc(list, func(a, b object) int {
		for i, key := range keys {
			c := compare(a[key], b[key])
			if dirs[i] == "desc" {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return compare(a[uuid], b[uuid]) // pages must not depend on the order of a map
	})
	if marker := q.Get("marker"); marker != "" {
		i := slices.IndexFunc(list, func(o object) bool { return o[uuid] == marker || fmt.Sprint(o["id"]) == marker })
		if i < 0 {
			return nil, refuse(400, "Marker %.100s could not be found.", marker)
		}
		list = list[i+1:]
	}
	list = list[:min(limit, len(list))]
	if list == nil {
		list = []object{}
	}
	return list, nil
}

// columns that can be sorted by, beside those of each list.
var stamps = []string{"id", "created_at", "updated_at"}

// compare orders values of one column; what is not there comes first.
func compare(a, b any) int {
	if a == nil || b == nil {
		return cmp.Compare(btoi(a != nil), btoi(b != nil))
	}
	if x, ok := a.(uint64); ok {
		return cmp.Compare(x, b.(uint64))
	}
	return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// without drops what a query's filter does not name: equal by its text.
func (r *request) without(list []object, keys ...string) []object {
	q := r.URL.Query()
	for _, key := range keys {
		if q.Has(key) {
			list = slices.DeleteFunc(list, func(o object) bool { return fmt.Sprint(o[key]) != q.Get(key) })
		}
	}
	return list
}

// withTruth is without for a boolean.
func (r *request) withTruth(list []object, key string) ([]object, error) {
	q := r.URL.Query()
	if !q.Has(key) {
		return list, nil
	}
	want, err := truthOf(q.Get(key))
	if err != nil {
		return nil, refuse(400, "Invalid value for %s: %v", key, err)
	}
	return slices.DeleteFunc(list, func(o object) bool { return o[key] != want }), nil
}

// stamp is a time as OpenStack writes it, in UTC without saying so; nil if it is not known.
func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000")
}

// row begins an answer with what every one of Masakari's rows has.
func row(uuid string, created, updated time.Time) object {
	return object{"id": number(uuid), "created_at": stamp(created), "updated_at": stamp(updated), "deleted": false, "deleted_at": nil}
}

// number is the number of a row: clients have numbers for ids and UUIDs for names.
func number(uuid string) uint64 {
	raw, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || len(raw) != 16 {
		return 0
	}
	return binary.BigEndian.Uint64(raw) >> 16 // so many bits every client's numbers can hold
}

// named is the UUID of what has a name in the site (RFC 9562, version 5): the same on each
// host and after each restart.
func named(parts ...string) string {
	space := []byte("mainstay masakari")
	sum := sha1.Sum(append(space, strings.Join(parts, "\x00")...)) //nolint:gosec // as above
	return format([16]byte(sum[:16]), 5)
}

// fresh is a new UUID (version 4).
func fresh() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	return format(raw, 4)
}

func format(raw [16]byte, version byte) string {
	raw[6], raw[8] = raw[6]&0x0f|version<<4, raw[8]&0x3f|0x80
	s := hex.EncodeToString(raw[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
