package trust

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
)

// BeatKeys are the keys that heartbeats are sealed with, by id. Voters hold the
// master of each id and derive every host's key from it; another host holds its
// own keys alone, and so can speak for no other.
//
// A rotation goes: Stage on a voter, hand the keys to every voter and the
// derived ones to every host, then Turn everywhere, then Retire. A host removed
// from the site knows only its own keys, which are refused with its name; a
// voter removed knows the master: rotate after it.
type BeatKeys struct {
	// Host is whose keys these are; empty means masters.
	Host string `json:"host,omitempty"`
	// Sealing is the id that new datagrams are sealed with.
	Sealing uint32 `json:"sealing"`
	// Secrets are 32 bytes for each id.
	Secrets map[uint32][]byte `json:"secrets"`
}

// NewBeatKeys makes the first master of a site.
func NewBeatKeys() BeatKeys {
	return BeatKeys{Sealing: 1, Secrets: map[uint32][]byte{1: newSecret()}}
}

func newSecret() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
}

// String hides the secrets.
func (k BeatKeys) String() string {
	whose := "masters"
	if k.Host != "" {
		whose = "keys of " + k.Host
	}
	return fmt.Sprintf("beat %s %v, sealing with %d", whose, slices.Sorted(maps.Keys(k.Secrets)), k.Sealing)
}

// GoString hides the secrets.
func (k BeatKeys) GoString() string { return k.String() }

// Current is the id that new datagrams are sealed with.
func (k BeatKeys) Current() uint32 { return k.Sealing }

// Key returns the key of a host under an id, and whether it is held here; host
// "" is the voters' common key.
func (k BeatKeys) Key(id uint32, host string) ([]byte, bool) {
	secret := k.Secrets[id]
	if secret == nil || k.Host != "" && k.Host != host {
		return nil, false
	}
	if k.Host != "" {
		return slices.Clone(secret), true
	}
	// The labels cannot meet: one names a host, the other has no name to give.
	label := "mainstay beat voters"
	if host != "" {
		label = "mainstay beat host " + host
	}
	key, err := hkdf.Key(sha256.New, secret, nil, label, 32)
	return key, err == nil
}

// For returns the keys that a host which is not a voter may hold.
func (k BeatKeys) For(host string) (BeatKeys, error) {
	if host == "" || k.Host != "" {
		return BeatKeys{}, fmt.Errorf("derive the beat keys of %q: only a voter can, and only for a named host", host)
	}
	out := BeatKeys{Host: host, Sealing: k.Sealing, Secrets: map[uint32][]byte{}}
	for id := range k.Secrets {
		key, ok := k.Key(id, host)
		if !ok {
			return BeatKeys{}, fmt.Errorf("derive beat key %d of %s: no such master", id, host)
		}
		out.Secrets[id] = key
	}
	return out, nil
}

// Stage returns masters with one more key, which is not yet sealed with.
func (k BeatKeys) Stage() (BeatKeys, error) {
	if k.Host != "" {
		return k, errors.New("stage a new beat key: only a voter can")
	}
	k.Secrets = maps.Clone(k.Secrets)
	k.Secrets[slices.Max(append(slices.Collect(maps.Keys(k.Secrets)), k.Sealing))+1] = newSecret()
	return k, nil
}

// Turn returns the keys with the newest one sealed with.
func (k BeatKeys) Turn() BeatKeys {
	k.Sealing = slices.Max(append(slices.Collect(maps.Keys(k.Secrets)), k.Sealing))
	return k
}

// Retire returns the keys without those that are older than the one sealed with.
func (k BeatKeys) Retire() BeatKeys {
	k.Secrets = maps.Clone(k.Secrets)
	maps.DeleteFunc(k.Secrets, func(id uint32, _ []byte) bool { return id < k.Sealing })
	return k
}

func (k BeatKeys) valid() error {
	if k.Secrets[k.Sealing] == nil {
		return fmt.Errorf("beat key %d, to seal with, is missing", k.Sealing)
	}
	for id, s := range k.Secrets {
		if id == 0 || len(s) != 32 {
			return fmt.Errorf("beat key %d: want 32 bytes and an id above 0, have %d bytes", id, len(s))
		}
	}
	return nil
}

// Save writes beat.json into a folder.
func (k BeatKeys) Save(dir string) error {
	if err := k.valid(); err != nil {
		return fmt.Errorf("save the beat keys: %w", err)
	}
	data, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("save the beat keys: %w", err)
	}
	if err := writeFile(filepath.Join(dir, BeatFile), append(data, '\n')); err != nil {
		return fmt.Errorf("save the beat keys: %w", err)
	}
	return nil
}

// LoadBeatKeys reads beat.json from a folder.
func LoadBeatKeys(dir string) (BeatKeys, error) {
	var k BeatKeys
	path := filepath.Join(dir, BeatFile)
	if err := readJSON(path, &k); err != nil {
		return BeatKeys{}, fmt.Errorf("load the beat keys (has this host joined? \"mainstay join\"): %w", err)
	}
	if err := k.valid(); err != nil {
		return BeatKeys{}, fmt.Errorf("load the beat keys: %s: %w", path, err)
	}
	return k, nil
}
