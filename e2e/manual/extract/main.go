// Command extract reads the published client's manual and writes the commands and the YAML objects that it shows.
// The tests read only what it wrote, which is committed:
//
//	go run ./e2e/manual/extract DOC > e2e/manual/testdata/manual.json
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// Manual is what a manual shows.
type Manual struct {
	Commands []Command `json:"commands"`
	Objects  []Object  `json:"objects"`
}

// Command is one command line, in the text or in an example.
type Command struct {
	// Line of the document where it stands.
	Line int    `json:"line"`
	Text string `json:"text"`
	// Stdin is what an example pipes into it.
	Stdin string `json:"stdin,omitempty"`
}

// Object is a resource in YAML.
type Object struct {
	Line int    `json:"line"`
	Text string `json:"text"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "extract:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("one document is needed, got %d", len(args))
	}
	document, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	enc := json.NewEncoder(os.Stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	return enc.Encode(extract(string(document)))
}

var (
	inText = regexp.MustCompile("`(kumactl [^`]+)`")
	atLine = regexp.MustCompile(`^\s*(?:\$ )?(kumactl .+)$`)
	piped  = regexp.MustCompile(`(?s)^echo "(.*?)" \| (kumactl [^\n]+)`)
)

func extract(document string) Manual {
	var m Manual
	var code []string
	fenced := false
	for i, line := range strings.Split(document, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			if fenced {
				m.example(i+1-len(code), strings.Join(code, "\n"))
			}
			fenced, code = !fenced, nil
		case fenced:
			code = append(code, line)
		default:
			for _, found := range inText.FindAllStringSubmatch(line, -1) {
				m.Commands = append(m.Commands, Command{Line: i + 1, Text: found[1]})
			}
		}
	}
	return m
}

// example reads the code between two fences, which begins in a line.
func (m *Manual) example(line int, code string) {
	if found := piped.FindStringSubmatch(code); found != nil {
		m.Commands = append(m.Commands, Command{Line: line, Text: found[2], Stdin: found[1] + "\n"})
		m.Objects = append(m.Objects, Object{Line: line, Text: found[1] + "\n"})
		return
	}
	if strings.HasPrefix(code, "type: ") {
		m.Objects = append(m.Objects, Object{Line: line, Text: code + "\n"})
		return
	}
	text := strings.ReplaceAll(code, " \\\n", " ")
	for l := range strings.Lines(text) {
		if found := atLine.FindStringSubmatch(strings.TrimRight(l, "\n")); found != nil {
			m.Commands = append(m.Commands, Command{Line: line, Text: strings.Join(strings.Fields(found[1]), " ")})
		}
	}
}
