"""The same work on FastAPI, typed on both sides as its documentation does it."""

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Request(BaseModel):
    name: str


class Answer(BaseModel):
    message: str


@app.post("/")
async def handle(request: Request) -> Answer:
    return Answer(message=f"Hello, {request.name}!")
