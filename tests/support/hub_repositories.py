"""What a small Hub answers about accounts and repositories, with their branches and tags."""

import re
from datetime import UTC, datetime

import yaml

from .hub_http import KINDS, PREFIXES, REPO, TOKENS, HubHandler, route
from .hub_store import HubError, describe_commit, format_date


class RepositoryAnswers(HubHandler):
    """Accounts; repositories, their branches, tags and pull requests."""

    @route("GET", "/api/whoami-v2")
    def whoami(self):
        if not self.token:
            raise HubError(401, "Invalid username or password.")
        user, role = TOKENS[self.token]
        self.answer(
            {
                "type": "user",
                "name": user,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": {"role": role}},
            }
        )

    @route("GET", REPO + r"/auth-check(?P<write>/write)?")
    def auth_check(self, kind, repo, write):
        self.repository(kind, repo, write=bool(write))
        self.answer({})

    @route("POST", "/api/repos/create")
    def create(self):
        request = self.json_body()
        user, role = TOKENS.get(self.token, ("", ""))
        if not user:
            raise HubError(401, "Invalid username or password.")
        owner = request.get("organization") or user
        kind, repo_id = request.get("type", "model"), f"{owner}/{request['name']}"
        if owner != user or role != "write":
            what = f'a {kind} under the namespace "{owner}"'
            raise HubError(403, f"You don't have the rights to create {what}")
        url = f"{self.hub.url}/{PREFIXES[kind]}{repo_id}"
        with self.hub.store.lock:
            if (kind, repo_id) in self.hub.store.repositories:
                message = f"You already created this {kind} repo"
                self.answer({"error": message, "url": url}, 409)
                return
            is_private = request.get("visibility") == "private"
            self.hub.store.create(kind, repo_id, is_private, request)
        self.answer({"url": url, "name": repo_id, "id": repo_id})

    @route("DELETE", "/api/repos/delete")
    def delete(self):
        request = self.json_body()
        repo_id = f"{request.get('organization') or TOKENS[self.token][0]}/{request['name']}"
        found = self.repository(request.get("type", "model"), repo_id, write=True)
        del self.hub.store.repositories[found.kind, found.id]
        self.answer({})

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self):
        content = self.json_body()["content"]
        errors = []
        match = re.match(r"---\n(.*?)\n---", content, re.S)
        try:
            data = yaml.safe_load(match[1]) if match else {}
        except yaml.YAMLError as error:
            data, errors = {}, [{"message": f"bad YAML: {str(error).splitlines()[0]}"}]
        licence = (data or {}).get("license")
        if licence == "made-up":
            errors.append({"message": '"license" must be one of [apache-2.0, mit, other, ...]'})
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    @route("POST", REPO + "/branch/(?P<branch>[^/]+)")
    def create_branch(self, kind, repo, branch):
        repository = self.repository(kind, repo, write=True)
        if branch in repository.branches:
            raise HubError(409, f"Reference refs/heads/{branch} already exists")
        start = self.json_body().get("startingPoint") or "main"
        repository.branches[branch] = repository.find(start).oid
        self.answer({})

    @route("DELETE", REPO + "/branch/(?P<branch>[^/]+)")
    def delete_branch(self, kind, repo, branch):
        self.repository(kind, repo, write=True).branches.pop(branch)
        self.answer({})

    @route("POST", REPO + "/tag/(?P<revision>[^/]+)")
    def create_tag(self, kind, repo, revision):
        repository = self.repository(kind, repo, write=True)
        tag = self.json_body()["tag"]
        if tag in repository.tags:
            raise HubError(409, f"Tag reference {tag} already exists")
        repository.tags[tag] = repository.find(revision).oid
        self.answer({})

    @route("DELETE", REPO + "/tag/(?P<tag>[^/]+)")
    def delete_tag(self, kind, repo, tag):
        self.repository(kind, repo, write=True).tags.pop(tag)
        self.answer({})

    @route("GET", REPO + "/refs")
    def refs(self, kind, repo):
        repository = self.repository(kind, repo)

        def describe(names, prefix):
            return [
                {"name": name, "ref": f"{prefix}{name}", "targetCommit": oid}
                for name, oid in names.items()
            ]

        requests = {str(n): request["head"] for n, request in repository.pull_requests.items()}
        self.answer(
            {
                "branches": describe(repository.branches, "refs/heads/"),
                "tags": describe(repository.tags, "refs/tags/"),
                "converts": [],
                "pullRequests": describe(requests, "refs/pr/"),
            }
        )

    @route("GET", REPO + "/commits/(?P<revision>[^/]+)")
    def commits(self, kind, repo, revision):
        self.answer(
            [
                {
                    **describe_commit(commit),
                    "message": commit.description,
                    "authors": [{"user": "user"}],
                }
                for commit in self.repository(kind, repo).history(revision)
            ]
        )

    @route("GET", REPO + "/discussions")
    def discussions(self, kind, repo):
        requests = self.repository(kind, repo).pull_requests
        answers = [
            {
                "num": number,
                "title": request["title"],
                "status": "open",
                "author": {"name": "user"},
                "createdAt": format_date(datetime.now(UTC)),
                "isPullRequest": True,
                "repo": {"name": repo, "type": KINDS[kind]},
            }
            for number, request in requests.items()
        ]
        self.answer({"count": len(answers), "start": 0, "discussions": answers})
