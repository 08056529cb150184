// Package docs holds the pages of this directory that the daemon hands out itself.
package docs

import _ "embed"

// Agents is the author's guide on one page, made to fit a prompt.
//
//go:embed agents.md
var Agents string

// LLMs is the index for agents that come by HTTP.
//
//go:embed llms.txt
var LLMs string
