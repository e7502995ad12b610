package fence

import (
	"encoding/hex"
	"slices"
	"strings"
)

// parseUUID reads a UUID in any of the usual spellings. It refuses those that
// name no machine: empty, one digit throughout, and the ones that makers of
// boards left in thousands of them.
func parseUUID(text string) (u [16]byte, ok bool) {
	text = strings.ToLower(strings.NewReplacer("-", "", "{", "", "}", "", "urn:uuid:", "").Replace(strings.TrimSpace(text)))
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(u) || strings.Count(text, text[:1]) == len(text) {
		return u, false
	}
	switch text {
	case "03000200040005000006000700080009", "00020003000400050006000700080009", "12345678123456781234567812345678":
		return u, false
	}
	return [16]byte(raw), true
}

// swapped returns u with its first three fields in the other byte order: the
// SMBIOS specification changed it in version 2.6, and firmware, system and BMC
// of one machine do not always agree. Two machines never differ by just this.
func swapped(u [16]byte) [16]byte {
	u[0], u[1], u[2], u[3] = u[3], u[2], u[1], u[0]
	u[4], u[5] = u[5], u[4]
	u[6], u[7] = u[7], u[6]
	return u
}

// reversed returns u from its last byte to its first: so IPMI 2.0 (20.8) transmits a
// GUID, but some BMCs send it as it is written, and some as SMBIOS keeps it.
func reversed(u [16]byte) [16]byte {
	slices.Reverse(u[:])
	return u
}

// formatUUID writes a UUID's bytes in the order in which they came.
func formatUUID(u [16]byte) string {
	text := hex.EncodeToString(u[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}
