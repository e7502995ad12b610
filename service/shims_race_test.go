package service

import (
	"sync"
	"testing"
)

// TestShimsAreLinkedTogether: all services of a host are prepared at once.
func TestShimsAreLinkedTogether(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		var wait sync.WaitGroup
		for range 8 {
			wait.Go(func() {
				if err := linkShims(dir); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
	}
}
