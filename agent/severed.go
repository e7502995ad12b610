package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// severedFile holds, by address, at which generation this host ended its own
// half-dead flows to it: done anew by each new process it would end sound ones.
const severedFile = "severed.json"

func (a *Agent) recallSevered() (map[string]uint64, error) {
	out := map[string]uint64{}
	path := filepath.Join(a.cfg.Run, severedFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		return nil, fmt.Errorf("read which flows a former process ended: %w", err)
	}
	return out, nil
}

// keepSevered writes them. The caller holds the lock.
func (a *Agent) keepSevered() error {
	raw, err := json.Marshal(a.severed)
	if err != nil {
		return fmt.Errorf("keep which flows were ended: %w", err)
	}
	path := filepath.Join(a.cfg.Run, severedFile)
	if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
		return fmt.Errorf("keep which flows were ended: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("keep which flows were ended: %w", err)
	}
	return nil
}
