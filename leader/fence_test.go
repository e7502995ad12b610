package leader

import (
	"testing"

	"mainstay/fence"
	"mainstay/plan"
)

// TestAnIntentOutlastsItsFence sees that what plan writes down as the end of a fence
// is not before the last moment at which a device may still be told something.
func TestAnIntentOutlastsItsFence(t *testing.T) {
	if plan.FenceLasts < fence.Longest {
		t.Errorf("an intent is open for %v, and a fence takes up to %v", plan.FenceLasts, fence.Longest)
	}
}
