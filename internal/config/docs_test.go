package config

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// TestDocs: docs/config.md describes every key, in the section of its own or in
// that of the key that it belongs to.
func TestDocs(t *testing.T) {
	doc := readDocs(t)
	walkKeys(reflect.TypeFor[Config](), nil, func(path []string) {
		if mentioned(doc, path) {
			return
		}
		t.Errorf("docs/config.md does not describe %s", strings.Join(path, "."))
	})
}

// TestDocsExample: the configuration that docs/config.md begins with loads.
func TestDocsExample(t *testing.T) {
	_, rest, _ := strings.Cut(readDocs(t), "```yaml\n")
	example, _, _ := strings.Cut(rest, "```")
	if got := mustParse(t, example); !reflect.DeepEqual(names(got), []string{"backups", "docs"}) {
		t.Errorf("got jobs %v", names(got))
	}
}

// TestDocsYAML: each file, or part of a job, that the pages of the endpoints show would load.
func TestDocsYAML(t *testing.T) {
	for _, page := range []string{"zfs.md", "btrfs.md"} {
		blocks := yamlBlocks(readDoc(t, page))
		if len(blocks) < 2 {
			t.Errorf("%s has %d blocks of YAML", page, len(blocks))
		}
		for i, block := range blocks {
			if !strings.Contains("\n"+block, "\njobs:") {
				block = jobWith(block)
			}
			if _, err := Parse(page, []byte(block)); err != nil {
				t.Errorf("%s, block %d: %v\n%s", page, i+1, err, block)
			}
		}
	}
}

// yamlBlocks are the blocks of YAML of a page, without the indentation of the list that
// they may stand in.
func yamlBlocks(doc string) []string {
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^( *)```yaml\n(.*?)^ *```$").FindAllStringSubmatch(doc, -1) {
		blocks = append(blocks, regexp.MustCompile("(?m)^"+m[1]).ReplaceAllString(m[2], ""))
	}
	return blocks
}

// jobWith is a configuration with a job that receives, and has the keys.
func jobWith(keys string) string {
	job := "jobs:\n- name: job\n  type: pull\n  root_fs: a/b\n  interval: 1h\n  connect: {type: tcp, address: \"a:1\"}\n"
	return job + regexp.MustCompile("(?m)^(.)").ReplaceAllString(keys, "  $1")
}

// TestDocsForeign: docs/zrepl.md tells of everything of zrepl that is reported as such.
func TestDocsForeign(t *testing.T) {
	doc := readDoc(t, "zrepl.md")
	for _, words := range []map[string]string{foreign, foreignWords} {
		for word := range words {
			if !strings.Contains(doc, "`"+word+"`") {
				t.Errorf("docs/zrepl.md does not tell of %s", word)
			}
		}
	}
}

func readDocs(t *testing.T) string { return readDoc(t, "config.md") }

func readDoc(t *testing.T, name string) string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

func names(cfg *Config) []string {
	var all []string
	for _, job := range cfg.Jobs {
		all = append(all, job.Name)
	}
	return all
}

// walkKeys calls fn with the path of each key, without places in lists.
func walkKeys(section reflect.Type, path []string, fn func(path []string)) {
	for _, k := range keysOf(section) {
		child := append(path[:len(path):len(path)], k.name)
		fn(child)
		t := section.Field(k.field).Type
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() == reflect.Struct && t != reflect.TypeFor[Rule]() {
			walkKeys(t, child, fn)
		}
	}
}

// mentioned reports whether the path is the title of a section, or a line of the
// section of one of its parents begins with the rest of it. A key that only
// leads to others is mentioned with them; those of the items of a list may have a table
// of their own in the section of what the list is in.
func mentioned(doc string, path []string) bool {
	if sectionText(doc, path[len(path)-1]) != "" {
		return true
	}
	if n := len(path); n > 2 && strings.Contains(sectionText(doc, path[n-3]), "\n| `"+path[n-1]+"` |") {
		return true
	}
	for i := range path[1:] {
		text, rest := sectionText(doc, path[i]), strings.Join(path[i+1:], ".")
		for _, start := range []string{"| `" + rest + "`", "- `" + rest + "`", "| `" + rest + "."} {
			if strings.Contains(text, "\n"+start) {
				return true
			}
		}
	}
	return false
}

// sectionText is the text below the title that is the key, up to the next title.
func sectionText(doc, key string) string {
	_, rest, _ := strings.Cut(doc, "\n## `"+key+"`\n")
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}
