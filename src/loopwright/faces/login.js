"use strict";
const form = document.getElementById("login"), said = document.getElementById("said");
const token = location.hash.slice(1);
if (token) {
  history.replaceState(null, "", location.pathname);
  document.getElementById("who").hidden = true;
  form.elements.password.autocomplete = "new-password";
  form.querySelector("button").textContent = "Keep this password and log in";
  said.textContent = "Choose a password of at least 12 characters.";
}
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const password = form.elements.password.value;
  const fields = token ? { token, password } : { name: form.elements.name.value, password };
  const answer = await fetch(token ? "/api/v1/session/invitation" : "/api/v1/session", {
    method: "POST", credentials: "same-origin",
    headers: { "content-type": "application/json" }, body: JSON.stringify(fields),
  });
  const told = await answer.json();
  said.textContent = answer.ok ? "You are logged in." : told.message;
  form.elements.password.value = "";
  if (answer.ok) form.querySelectorAll("label, button").forEach((part) => { part.hidden = true; });
});
