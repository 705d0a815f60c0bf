// Command probe32 is built for a 32-bit architecture and says that it runs: a
// container's filter must know the calls of that architecture too. Only the tests
// of test/isolation build it.
package main

import (
	"fmt"
	"os"
)

func main() {
	_, err := os.ReadDir("/")
	fmt.Println("32 bits:", err)
}
