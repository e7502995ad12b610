// Command mainstay keeps a private OpenStack cloud up. All it does is in package
// cli and below.
package main

import (
	"os"

	"mainstay/cli"
)

func main() {
	if code, is := cli.Shim(os.Args, os.Stdout, os.Stderr); is {
		os.Exit(code)
	}
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
