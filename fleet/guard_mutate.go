//go:build mutate

package fleet

// Disarmed is the guard that the mutation test has taken away. It exists only
// under the build tag "mutate".
var Disarmed = Guard(disarmed)

// disarmed is set by the linker (-X) for a whole program without a guard.
var disarmed string

// Armed says whether a guard is in place.
func Armed(g Guard) bool { return g != Disarmed }
