// Command openapigen writes the OpenAPI document that the gateway serves. It is run by go generate.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/meridian-mesh/meridian/pkg/gateway/openapi"
	"github.com/meridian-mesh/meridian/pkg/resource"
)

func main() {
	rules := flag.String("rules", "", "file with the HTTP rules")
	out := flag.String("out", "", "file to write")
	flag.Parse()
	if err := run(*rules, *out); err != nil {
		fmt.Fprintln(os.Stderr, "openapigen:", err)
		os.Exit(1)
	}
}

func run(rulesFile, out string) error {
	config, err := os.ReadFile(rulesFile)
	if err != nil {
		return err
	}
	rules, err := openapi.Rules(config)
	if err != nil {
		return err
	}
	doc, err := openapi.Document(resource.NewTable(), rules)
	if err != nil {
		return err
	}
	return os.WriteFile(out, doc, 0o644) //nolint:gosec // a source file like the others
}
