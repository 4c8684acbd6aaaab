//go:build !cgo

package vault

// makers lists the forms that this build can open; the first is for new vaults.
func makers() []maker { return []maker{sealedMaker()} }
